"""Toyworld: endless synthetic clips with exact ground truth, from which the toy model learns."""

from alchemint.toyworld.world import Clip, ClipSubject, WorldConfig, render_clip, stream_clips

__all__ = ["Clip", "ClipSubject", "WorldConfig", "render_clip", "stream_clips"]
