"""Clips as latents: a rolling pool of groups, each rendered and encoded once and used for several steps.

A group is one batch of clips that have the same number of subjects, so that no attention mask is needed. A step
draws one group of the pool; every `uses` steps the oldest group leaves for a new one. Which groups are in the pool at
a step, and which one is drawn, depends on the seed and the step alone.

With several worker processes each has a pool of its own, a lane: step s belongs to lane s % num_lanes.

Shapes: B clips, N subjects, C x T x H x W latents.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from alchemint import media, timeline
from alchemint.data.clips import Clip, ClipSource

Tensor = torch.Tensor

Encoder = Callable[[Tensor], Tensor]
"""uint8 videos (batch, 3, frames, height, width) -> normalised latents (batch, C, T, H, W)."""


@dataclass(frozen=True)
class ClipBatch:
    """Clips with equal numbers of subjects.

    latents (B, C, T, H, W); reference_latents (B, N, C, H, W); spans (B, N, 2) on the latent axis; subject_mask
    (B, T, H, W), the share of each latent's pixels that show any subject; prompts (B); words (B, N); events (B) of
    (latent span, text) in order of time, or None where the group leaves its timed captions out.
    """

    latents: Tensor
    reference_latents: Tensor
    spans: Tensor
    subject_mask: Tensor
    prompts: list[str]
    words: list[list[str]]
    events: list[list[tuple[timeline.LatentSpan, str]]] | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        """Return the batch with its tensors on `device`."""
        tensors = {name: getattr(self, name).to(device, non_blocking=non_blocking)
                   for name in ("latents", "reference_latents", "spans", "subject_mask")}
        return replace(self, **tensors)


@dataclass(frozen=True)
class PoolOptions:
    """See the recipe's `clips` section."""

    batch_size: int
    num_groups: int
    uses: int
    subject_shares: tuple[float, ...]
    event_share: float
    num_lanes: int
    canvas_share: float = media.CANVAS_SHARE
    own_frame_share: float = 0.0
    share: tuple[int, int] = (0, 1)
    """Which part of each batch is wanted: its number, and how many parts there are (one for each process)."""


class EncodedClips(Dataset[ClipBatch]):
    """The batch of each step. `encoder` is called in the process that loads the data."""

    def __init__(self, source: ClipSource, encoder: Encoder, options: PoolOptions, seed: int, num_steps: int) -> None:
        self._source = source
        self._encoder = encoder
        self._options = options
        self._seed = seed
        self._num_steps = num_steps
        self._pool: dict[int, ClipBatch] = {}

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> ClipBatch:
        lane, local_step = step % self._options.num_lanes, step // self._options.num_lanes
        oldest = local_step // self._options.uses
        for number in [number for number in self._pool if number < oldest]:
            del self._pool[number]
        number = oldest + int(np.random.default_rng((self._seed, 1, step)).integers(self._options.num_groups))
        if number not in self._pool:
            self._pool[number] = self._group(number * self._options.num_lanes + lane)
        return self._pool[number]

    def _group(self, number: int) -> ClipBatch:
        """Render and encode group `number`."""
        random = np.random.default_rng((self._seed, 2, number))
        shares = np.asarray(self._options.subject_shares)
        num_subjects = int(random.choice(len(shares), p=shares / shares.sum()))
        with_events = random.random() < self._options.event_share
        from_own_frames = random.random() < self._options.own_frame_share
        size, (part, num_parts) = self._options.batch_size, self._options.share
        indices = range(number * size, (number + 1) * size)[part::num_parts]
        return encode_clips([self._source(index, num_subjects) for index in indices], self._encoder, with_events,
                            self._options.canvas_share, from_own_frames)


def encode_clips(clips: list[Clip], encoder: Encoder, with_events: bool,
                 canvas_share: float = media.CANVAS_SHARE, from_own_frames: bool = False) -> ClipBatch:
    """Encode clips with equal numbers of subjects, each subject by its first reference.

    `from_own_frames`: each by a cut-out of the clip's own frames in place of it.
    """
    latents = encoder(_videos(np.stack([clip.frames for clip in clips])))
    _, height, width, _ = clips[0].frames.shape
    num_subjects = len(clips[0].subjects)
    canvases = np.array([
        media.reference_canvas(Image.fromarray(cut_out(clip, number) if from_own_frames else subject.references[0]),
                               width, height, canvas_share)
        for clip in clips for number, subject in enumerate(clip.subjects)])
    if num_subjects:
        references = encoder(_videos(canvases[:, None])).squeeze(2).unflatten(0, (len(clips), num_subjects))
    else:
        references = latents.new_zeros(len(clips), 0, latents.shape[1], *latents.shape[3:])
    spans = torch.tensor([[timeline.latent_span_of(subject.interval, clip.fps, len(clip.frames))
                           for subject in clip.subjects] for clip in clips], dtype=torch.float32)
    return ClipBatch(
        latents=latents,
        reference_latents=references,
        spans=spans.view(len(clips), num_subjects, 2),
        subject_mask=torch.stack([subject_share(clip, latents.shape[2:]) for clip in clips]),
        prompts=[clip.caption for clip in clips],
        words=[[subject.word for subject in clip.subjects] for clip in clips],
        events=[[(timeline.latent_span_of(event.during, clip.fps, len(clip.frames)), event.text)
                 for event in clip.events] for clip in clips] if with_events else None,
    )


def cut_out(clip: Clip, number: int) -> np.ndarray:
    """Return a subject as the clip's frames show it where most of it is seen, uint8 RGBA (height, width, 4)."""
    masks = clip.masks[number]
    frame = int(masks.sum((1, 2)).argmax())
    return np.concatenate([clip.frames[frame], np.uint8(255) * masks[frame, :, :, None]], axis=-1)


def subject_share(clip: Clip, latent_shape: torch.Size) -> Tensor:
    """Return, per latent position (T, H, W), the largest share over its frames of pixels that show a subject."""
    if not len(clip.masks):
        return torch.zeros(tuple(latent_shape))
    shown = torch.from_numpy(clip.masks.any(0)).float()
    num_latents, height, width = latent_shape
    shares = F.adaptive_avg_pool2d(shown, (height, width))
    per_latent = [shares[first:last + 1].amax(0)
                  for first, last in map(timeline.frames_of_latent, range(num_latents))]
    return torch.stack(per_latent)


def _videos(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3)
