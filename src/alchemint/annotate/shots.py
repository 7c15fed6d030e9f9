"""A video file becomes clips: the parts that somebody captioned, or its shots."""

import hashlib
import json
import math
import re
import unicodedata
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np

from alchemint import timeline
from alchemint.annotate.clip import Clip, Given, Source, UnfitError
from alchemint.annotate.recipe import Shots
from alchemint.media import VideoFacts, frames_of, probe
from alchemint.records import TimedCaption

Span = tuple[int, int]
"""First frame and number of frames."""

_LOOKED_AT = 256
"""Pixels of the longer side of the frames in which cuts are looked for, as PySceneDetect does by default."""

_SLACK_S = 0.1
"""A time may lie by so much behind a file's last frame: the durations that tools tell count sound, which goes on."""


def cut(source: Source, options: Shots) -> list[Clip]:
    """Cut a video file into clips, in order.

    A file with captioned parts is cut into these and no others, however long; any other into its shots: those shorter
    than `options.shortest_s` are left out, those longer than `longest_s` cut into equal parts. Each shot has the whole
    file's caption, and of its events what falls in the shot.

    Raises UnfitError for a file that can't be read or has no shot long enough, and for parts and events outside of it.
    """
    try:
        facts = probe(source.address)
        parts = [given for given in source.given if given.during is not None]
        if parts:
            return _captioned_parts(source, facts, parts)
        spans = _shots(source.address, facts, options)
    except (FileNotFoundError, ValueError) as error:
        raise UnfitError(str(error)) from error
    given = source.given[0] if source.given else Given("")
    _check_events(source, given, facts)
    return [_clip(source, facts, span, given, span[0] / facts.fps) for span in spans]


def clip_id(name: str, span: Span | None = None) -> str:
    """Return the id of a clip, or of a whole file, by the source's name: the same wherever and whenever it is read."""
    name = unicodedata.normalize("NFC", name)
    digest = hashlib.sha256(json.dumps([name, span]).encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w-]+", "-", PurePosixPath(name).stem)[:48].strip("-")
    return f"{stem or 'clip'}-{digest}"


def _captioned_parts(source: Source, facts: VideoFacts, parts: list[Given]) -> list[Clip]:
    if len(parts) < len(source.given):
        raise UnfitError(f"{source.name} has captions of parts and one of the whole file; give one kind")
    clips: dict[Span, Clip] = {}
    for given in parts:
        assert given.during is not None
        start, end = given.during
        frames = timeline.frames_in(given.during, facts.fps, facts.num_frames)
        if start < 0 or end > facts.num_frames / facts.fps + _SLACK_S or frames is None:
            raise UnfitError(f"{source.name}: the part {start:g}-{end:g} s {_outside(facts)}; correct the captions")
        span = frames[0], frames[1] - frames[0] + 1
        if span in clips:
            raise UnfitError(f"{source.name}: two parts are of the same frames, {start:g}-{end:g} s; give one of them")
        clips[span] = _clip(source, facts, span, given, 0.0)
    return [clips[span] for span in sorted(clips)]


def _clip(source: Source, facts: VideoFacts, span: Span, given: Given, begins_s: float) -> Clip:
    """Make a clip, which begins so many seconds after what the given events count from."""
    first_frame, num_frames = span
    length_s = num_frames / facts.fps
    events = []
    for event in given.events:
        start, end = (min(max(time - begins_s, 0.0), length_s) for time in event.during)
        if start < end and timeline.frames_in((start, end), facts.fps, num_frames):
            events.append(TimedCaption(during=(start, end), text=event.text))
    return Clip(clip_id(source.name, span), source, facts, first_frame, num_frames, given.caption, tuple(events))


def _check_events(source: Source, given: Given, facts: VideoFacts) -> None:
    for event in given.events:
        if event.during[1] > facts.num_frames / facts.fps + _SLACK_S:
            raise UnfitError(f"{source.name}: the event {event.during[0]:g}-{event.during[1]:g} s {_outside(facts)}; "
                        "correct the captions file")


def _outside(facts: VideoFacts) -> str:
    return (f"holds no frame of the file or lies outside of it, which lasts {facts.num_frames / facts.fps:.3f} s "
            f"({facts.num_frames} frames)")


def _shots(address: str, facts: VideoFacts, options: Shots) -> list[Span]:
    borders = [0, *_cuts(address, facts, options), facts.num_frames]
    lengths = [(end - first) / facts.fps for first, end in pairwise(borders)]
    if max(lengths) < options.shortest_s:
        raise UnfitError(f"the longest of its {len(lengths)} shots lasts {max(lengths):.2f} s, but only those of "
                    f"{options.shortest_s:g} s and more are taken; lower shots.shortest_s")
    spans = []
    for (first, end), length in zip(pairwise(borders), lengths, strict=True):
        if length >= options.shortest_s:
            num_parts = min(math.ceil(length / options.longest_s - 1e-9), end - first)
            inner = [first + (end - first) * part // num_parts for part in range(num_parts + 1)]
            spans += [(start, stop - start) for start, stop in pairwise(inner)]
    return spans


def _cuts(address: str, facts: VideoFacts, options: Shots) -> list[int]:
    """Return the first frames of all shots but the first."""
    if options.detector == "none":
        return []
    from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneDetector

    # Every cut counts: PySceneDetect would leave a shot that is too short in the one before or after it.
    detector: SceneDetector
    if options.detector == "adaptive":
        threshold = {} if options.threshold is None else {"adaptive_threshold": options.threshold}
        detector = AdaptiveDetector(min_scene_len=1, **threshold)
    else:
        threshold = {} if options.threshold is None else {"threshold": options.threshold}
        detector = ContentDetector(min_scene_len=1, **threshold)
    found = []
    for number, frame in enumerate(frames_of(address, range(facts.num_frames), facts.fps, _LOOKED_AT)):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        found += detector.process_frame(FrameTimecode(number, fps=facts.fps), bgr)
    return [cut.frame_num for cut in found if cut.frame_num]
