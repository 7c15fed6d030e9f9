"""Clips on disk, or in an object store: a folder of records, its videos and reference pictures, made into samples.

Of the records only what is needed to plan batches stays in memory; the rest is read again with each sample.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from alchemint import media, storage, timeline
from alchemint.data.augmentation import augmented_canvas
from alchemint.data.clip_plans import ClipPlan, SampleOptions, framing_of, plan_clip, seen_frames
from alchemint.data.framing import Framing
from alchemint.data.references import Pick, cut_out, open_picture, pick_reference
from alchemint.data.samples import Event, Sample
from alchemint.masks import mask_at
from alchemint.record_files import read_placed_records, read_record
from alchemint.records import ClipRecord
from alchemint.storage import Address

Tensor = torch.Tensor


@dataclass(frozen=True)
class ClipWindow:
    """A window of a clip: the clip's frame for each of the window's, and the entities that are its subjects, each with
    the latent span from the first to the last frame that shows it."""

    record: ClipRecord
    framing: Framing
    frames: list[int]
    entities: tuple[int, ...]
    spans: tuple[timeline.LatentSpan, ...]


class ClipFolder:
    """The clips of a folder that fit the options, `plans`; `left_out` says how many don't, by reason."""

    def __init__(self, folder: Address, options: SampleOptions) -> None:
        """Plan all clips of `folder`, a path or a URL.

        Raises FileNotFoundError without records, ValueError when no clip fits or two have one clip_id.
        """
        self.folder = folder
        self.options = options
        self.plans: list[ClipPlan] = []
        self.left_out: Counter[str] = Counter()
        seen = set()
        for place, record in read_placed_records(folder):
            if record.clip_id in seen:
                raise ValueError(f'{folder}: two clips are called "{record.clip_id}"; rename one')
            seen.add(record.clip_id)
            plan = plan_clip(record, place, options)
            if isinstance(plan, ClipPlan):
                self.plans.append(plan)
            else:
                self.left_out[plan] += 1
        if not self.plans:
            reasons = "; ".join(f"{count}: the clip {reason}" for reason, count in self.left_out.items())
            raise ValueError(f"{folder}: none of {len(seen)} clips can be used ({reasons or 'empty'}); "
                             "allow fewer num_frames or a lower fps, or give other clips")

    def sample(self, number: int, random: np.random.Generator) -> Sample:
        """Return a sample of the clip of plan `number`, in pixels.

        Raises ValueError or OSError when the clip cannot be read.
        """
        window = self.window(number, random)
        return self.load(window, self.picks(window, random), random)

    def window(self, number: int, random: np.random.Generator, start: int | None = None) -> ClipWindow:
        """Draw a window of a clip, or take the one that begins at `start`, and its subjects."""
        plan = self.plans[number]
        if start is None:
            start = int(random.choice(plan.starts))
        window = self.window_at(number, start)
        kept = np.sort(random.choice(len(window.entities), plan.bucket.num_subjects, replace=False))
        return ClipWindow(window.record, window.framing, window.frames, tuple(window.entities[place] for place in kept),
                          tuple(window.spans[place] for place in kept))

    def window_at(self, number: int, start: int) -> ClipWindow:
        """Return the window of a clip that begins at its frame `start`, with all entities that are seen in it."""
        plan = self.plans[number]
        record = read_record(self.folder, plan.place)
        framing = framing_of(record, self.options)
        frames = timeline.window_frames(start, plan.bucket.num_frames, self.options.fps, record.fps)
        shown = [np.flatnonzero(row) for row in seen_frames(record, framing, self.options.min_area)[:, frames]]
        entities = [entity for entity, numbers in enumerate(shown) if len(numbers)]
        spans = [timeline.latent_span((int(shown[entity][0]), int(shown[entity][-1]))) for entity in entities]
        return ClipWindow(record, framing, frames, tuple(entities), tuple(spans))

    def picks(self, window: ClipWindow, random: np.random.Generator) -> list[Pick]:
        """Draw a reference for each of a window's subjects."""
        between = window.frames[0], window.frames[-1]
        return [pick_reference(window.record, entity, between, self.options.min_area, random)
                for entity in window.entities]

    def load(self, window: ClipWindow, picks: Sequence[Pick], random: np.random.Generator,
             with_video: bool = True) -> Sample:
        """Read a window and references from disk; without `with_video`, the references only."""
        video, pictures = self._read(window, picks, with_video)
        width, height = window.framing.target
        canvases = np.array([augmented_canvas(picture, (width, height), self.options.canvas_share,
                                              self.options.augmentation, random) for picture in pictures], np.uint8)
        references = torch.from_numpy(canvases.reshape(-1, height, width, 3)).permute(0, 3, 1, 2)
        return replace(self.describe(window), references=references, inside=sum(pick.inside for pick in picks),
                       video=None if video is None else torch.from_numpy(video).permute(3, 0, 1, 2))

    def describe(self, window: ClipWindow) -> Sample:
        """Return all of a window's sample that the record tells: everything but pictures and latents."""
        record = window.record
        return Sample(
            clip_id=record.clip_id, video=None, latents=None, references=None, reference_latents=None,
            spans=window.spans,
            subject_mask=subject_mask(window, self.options.latent_stride) if self.options.with_masks else None,
            prompt=record.caption,
            words=tuple(record.entities[entity].word for entity in window.entities),
            events=events_of(window),
            inside=0)

    def _read(self, window: ClipWindow, picks: Sequence[Pick],
              with_video: bool) -> tuple[np.ndarray | None, list[Image.Image]]:
        """Return the window (F, H, W, 3) at its target size and the picked pictures, in one pass over the video."""
        pictures: dict[int, Image.Image] = {}
        shown: dict[int, np.ndarray] = {}
        numbers = sorted({*(window.frames if with_video else ()),
                          *(pick.frame for pick in picks if pick.frame is not None)})
        for number, frame in zip(numbers, self._frames(window.record, numbers), strict=True):
            window.framing.check(frame)
            if with_video and number in window.frames:
                shown[number] = window.framing.frame(frame)
            for place, pick in enumerate(picks):
                if pick.frame == number:
                    pictures[place] = cut_out(window.record, pick.entity, number, frame)
        for place, pick in enumerate(picks):
            if pick.image is not None:
                pictures[place] = open_picture(self.folder, pick.image)
        video = np.stack([shown[number] for number in window.frames]) if with_video else None
        return video, [pictures[place] for place in range(len(picks))]

    def _frames(self, record: ClipRecord, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield frames of a clip by their numbers in it, which must not descend."""
        if not numbers:
            return iter(())
        video = storage.join(self.folder, record.video)
        return media.frames_of(video, [record.first_frame + number for number in numbers], record.fps)


def events_of(window: ClipWindow) -> tuple[Event, ...]:
    """Return the clip's timed captions that fall in the window, clipped to it, in order of time."""
    record, found = window.record, []
    for event in record.events:
        frames = timeline.frames_in(event.during, record.fps, record.num_frames)
        inside = frames and timeline.frames_of_window(frames, window.frames)
        if inside:
            found.append((timeline.latent_span(inside), event.text))
    return tuple(sorted(found, key=lambda event: event[0]))


def subject_mask(window: ClipWindow, latent_stride: int) -> Tensor:
    """Return, per latent (T, h, w), the largest share over its frames of pixels that show a subject."""
    width, height = window.framing.target
    shares = np.zeros((len(window.frames), height // latent_stride, width // latent_stride), np.float32)
    for place, number in enumerate(window.frames):
        masks = [mask_at(window.record.entities[entity].track, number, window.framing.source)
                 for entity in window.entities]
        if masks:
            shares[place] = window.framing.shares(np.logical_or.reduce(masks), latent_stride)
    latents = map(timeline.frames_of_latent, range(timeline.num_latents(len(window.frames))))
    return torch.from_numpy(np.stack([shares[first:last + 1].max(0) for first, last in latents]))
