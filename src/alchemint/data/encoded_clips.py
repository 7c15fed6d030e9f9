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
    (latent span, text) in order of time, or None where the group leaves its timed captions out; places
    (B, N, T, H, W, 2), see `places_of`, or None where they are not known.
    """

    latents: Tensor
    reference_latents: Tensor
    spans: Tensor
    subject_mask: Tensor
    prompts: list[str]
    words: list[list[str]]
    events: list[list[tuple[timeline.LatentSpan, str]]] | None
    places: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        """Return the batch with its tensors on `device`."""
        tensors = {name: getattr(self, name).to(device, non_blocking=non_blocking)
                   for name in ("latents", "reference_latents", "spans", "subject_mask", "places")
                   if getattr(self, name) is not None}
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
    stills_share: float = 0.0
    stills_per_clip: int = 4
    with_places: bool = False
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
        random = np.random.default_rng((self._seed, 3, step))
        if random.random() < self._options.stills_share:
            return stills_of(self._pool[number], self._options.stills_per_clip, random)
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
                            self._options.canvas_share, random if from_own_frames else None,
                            self._options.with_places)


def encode_clips(clips: list[Clip], encoder: Encoder, with_events: bool,
                 canvas_share: float = media.CANVAS_SHARE, own_frames: np.random.Generator | None = None,
                 with_places: bool = False) -> ClipBatch:
    """Encode clips with equal numbers of subjects, each subject by its first reference.

    With `own_frames`, each by a cut-out of the clip's own frames in place of it, anywhere on the way from where it
    stands in the frame to the middle of the canvas. `with_places` tells what video and reference have in
    common, which is known for references only, not for cut-outs.
    """
    latents = encoder(_videos(np.stack([clip.frames for clip in clips])))
    _, height, width, _ = clips[0].frames.shape
    num_subjects = len(clips[0].subjects)
    canvases = np.array([
        media.reference_canvas(Image.fromarray(subject.references[0]), width, height, canvas_share)
        if own_frames is None else on_the_way(cut_out(clip, number), canvas_share, own_frames.uniform())
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
        places=torch.stack([places_of(clip, latents.shape[2:], canvas_share) for clip in clips])
        if with_places and own_frames is None else None,
    )


def stills_of(batch: ClipBatch, per_clip: int, random: np.random.Generator) -> ClipBatch:
    """Return latents of the batch as videos of one latent, `per_clip` times as many as there are clips.

    Only latents that show all of their clip's subjects are drawn; where a batch has none, it is returned as it is.
    Their references count in the whole of them, and they have no timed captions. `random` draws the same for every
    part of a batch.
    """
    num_latents = batch.latents.shape[2]
    middles = torch.arange(num_latents).view(1, 1, -1)
    shown = ((batch.spans[..., :1] <= middles) & (middles <= batch.spans[..., 1:])).all(1)
    clips, latents = (index.numpy() for index in torch.nonzero(shown, as_tuple=True))
    if not len(clips):
        return batch
    drawn = random.choice(len(clips), per_clip * len(batch.latents))
    clips, latents = clips[drawn], latents[drawn]
    return ClipBatch(
        latents=batch.latents[clips, :, latents].unsqueeze(2),
        reference_latents=batch.reference_latents[clips],
        spans=torch.zeros_like(batch.spans[clips]),
        subject_mask=batch.subject_mask[clips, latents].unsqueeze(1),
        prompts=[batch.prompts[clip] for clip in clips],
        words=[batch.words[clip] for clip in clips],
        events=None,
        places=None if batch.places is None else batch.places[clips][torch.arange(len(clips)), :, latents].unsqueeze(2),
    )


def cut_out(clip: Clip, number: int) -> np.ndarray:
    """Return a subject as the clip's frames show it where most of it is seen, uint8 RGBA (height, width, 4)."""
    masks = clip.masks[number]
    frame = int(masks.sum((1, 2)).argmax())
    return np.concatenate([clip.frames[frame], np.uint8(255) * masks[frame, :, :, None]], axis=-1)


def on_the_way(cut_out: np.ndarray, canvas_share: float, way: float) -> np.ndarray:
    """Lay a frame's cut-out on a canvas of the frame's size, uint8 (height, width, 3): at `way` 0 where and as large as
    it is in the frame, at 1 as `media.reference_canvas` lays it, in between on the straight line."""
    height, width = cut_out.shape[:2]
    image = Image.fromarray(cut_out)
    box = image.getchannel("A").getbbox()
    if box is None:
        return media.reference_canvas(image, width, height)
    canvas_scale = canvas_share * min(width / (box[2] - box[0]), height / (box[3] - box[1]))
    scale = 1 + way * (canvas_scale - 1)
    old = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    new = [place + way * (size / 2 - place) for place, size in zip(old, (width, height), strict=True)]
    to_frame = (1 / scale, 0, old[0] - new[0] / scale, 0, 1 / scale, old[1] - new[1] / scale)
    moved = image.convert("RGBa").transform(image.size, Image.Transform.AFFINE, to_frame, Image.Resampling.BICUBIC)
    return np.asarray(media.flattened(moved.convert("RGBA"), (media.NEUTRAL,) * 3))


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


def places_of(clip: Clip, latent_shape: torch.Size, canvas_share: float) -> Tensor:
    """Return where on a subject's reference the spot lies that a latent shows, (N, T, H, W, 2) float32.

    Places are (y, x) on the reference's grid of latents, of which latent i covers i .. i+1; NaN where less than half of
    the latent's pixels show the subject. Of a latent's four frames the third counts, which is nearest to its middle.
    """
    num_latents, height, width = latent_shape
    frame_height, frame_width = clip.frames.shape[1:3]
    strides = np.array([frame_width / width, frame_height / height])
    frames = [(first + last + 1) // 2 for first, last in map(timeline.frames_of_latent, range(num_latents))]
    middles = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1) * strides
    places = np.full((len(clip.subjects), num_latents, height, width, 2), np.nan, np.float32)
    for number, subject in enumerate(clip.subjects):
        place = media.canvas_place(Image.fromarray(subject.references[0]), frame_width, frame_height, canvas_share)
        if place is None:
            continue
        box, corner, size = place
        scale = np.array(size) / (box[2] - box[0], box[3] - box[1])
        masks = torch.from_numpy(clip.masks[number, frames]).float()
        shown = F.adaptive_avg_pool2d(masks, (height, width)).numpy() > 0.5
        maps = subject.to_reference[frames]
        points = np.einsum("tij,hwj->thwi", maps[..., :2], middles) + maps[:, None, None, :, 2]
        points = ((points - box[:2]) * scale + corner) / strides
        places[number][shown] = points[shown][:, ::-1]
    return torch.from_numpy(places)


def _videos(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3)
