"""Samples of clips on disk against what the files hold, frame by frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alchemint import media
from alchemint.data.clip_plans import SampleOptions
from alchemint.data.encoded_clips import subject_share
from alchemint.data.record_clips import ClipFolder
from alchemint.record_files import read_records, write_records
from alchemint.records import TimedCaption
from alchemint.toyworld import WorldConfig, render_clip


@pytest.fixture(scope="module")
def clips(world: Path, options: SampleOptions) -> ClipFolder:
    return ClipFolder(world, options)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tau(frame: int) -> float:
    return 0.0 if frame == 0 else (frame + 1.5) / 4


def test_clips_that_do_not_fit_are_counted(clips: ClipFolder) -> None:
    assert len(clips.plans) == 12
    assert clips.left_out == {"is shorter than 9 frames at 6 frames a second": 1, "has less than 6 frames a second": 1}


def test_a_sample_is_a_window_of_its_clip(clips: ClipFolder, world: Path) -> None:
    starts = set()
    for number, plan in enumerate(clips.plans):
        sample = clips.sample(number, random(number))
        record = next(record for record in read_records(world) if record.clip_id == plan.clip_id)
        video = media.read_video(world / record.video)[0]
        assert sample.video is not None and sample.references is not None
        frames = sample.video.permute(1, 2, 3, 0).numpy()
        length = plan.bucket.num_frames
        assert frames.shape == (length, plan.bucket.height, plan.bucket.width, 3)
        found = [start for start in range(len(video)) if np.array_equal(video[start:start + length], frames)]
        assert found[0] in plan.starts
        starts.add(found[0])
        assert sample.clip_id == record.clip_id and sample.prompt == record.caption
        assert len(sample.spans) == len(sample.words) == len(sample.references) == plan.bucket.num_subjects
        spans = {}
        for entity in record.entities:
            areas = entity.track.areas[found[0]:found[0] + length]
            seen = [frame for frame, area in enumerate(areas) if area > 0.002 * record.width * record.height]
            spans |= {entity.word: (tau(seen[0]), tau(seen[-1]))} if seen else {}
        assert dict(zip(sample.words, sample.spans, strict=True)).items() <= spans.items()
        assert list(sample.words) == [word for word in spans if word in sample.words]
        assert len(sample.words) == min(2, len(spans))
        events = []
        for event in record.events:
            shown = [frame for frame in range(length) if event.during[0] <= (found[0] + frame) / 6 < event.during[1]]
            if shown:
                events.append(((tau(shown[0]), tau(shown[-1])), event.text))
        assert [text for _, text in sample.events] == [text for _, text in events]
        for (span, _), (expected, _) in zip(sample.events, events, strict=True):
            assert span[0] == expected[0]
            assert span[1] in (expected[1], expected[1] + 0.25)  # the clip's last frame belongs to its end
    assert len(starts) > 3


def test_a_window_of_another_frame_rate_skips_frames(world: Path, options: SampleOptions) -> None:
    clips = ClipFolder(world, replace(options, fps=4.0, num_frames=(5,)))
    video = media.read_video(world / clips_record(world, clips.plans[2].clip_id).video)[0]
    sample = clips.load(clips.window_at(2, 3), [], random())
    assert sample.video is not None
    assert np.array_equal(sample.video.permute(1, 2, 3, 0), video[[3, 5, 6, 8, 9]])


def clips_record(world, clip_id):
    return next(record for record in read_records(world) if record.clip_id == clip_id)


def test_more_subjects_than_allowed_are_drawn_in_order(world: Path, options: SampleOptions) -> None:
    clips = ClipFolder(world, options)
    number = next(number for number, plan in enumerate(clips.plans)
                  if len(clips.window_at(number, int(plan.starts[0])).entities) == 3)
    chosen = {clips.window(number, random(seed)).entities for seed in range(60)}
    assert {(0, 1), (0, 2), (1, 2)} <= chosen
    assert all(list(entities) == sorted(entities) and len(entities) == 2 for entities in chosen)


def test_references_taken_apart_are_laid_on_the_canvas(clips: ClipFolder, world: Path) -> None:
    window = clips.window(2, random())
    sample = clips.load(window, clips.picks(window, random(1)), random(2))
    assert len(window.entities) == 2
    assert sample.inside == 0 and sample.references is not None
    for place, entity in enumerate(window.entities):
        picture = media.open_image(world / window.record.entities[entity].references[0].image)
        canvas = media.reference_canvas(picture, 32, 32)
        assert np.array_equal(sample.references[place].permute(1, 2, 0), canvas)


def test_references_are_cut_from_frames_outside_the_window(clips: ClipFolder, world: Path) -> None:
    """Told by trying all frames: each reference is the cut-out of one, outside where it could be."""
    counts = {True: 0, False: 0}
    for seed in range(12):
        number = (3, 5, 7)[seed % 3]
        window = clips.window(number, random(seed))
        picks = clips.picks(window, random(seed))
        sample = clips.load(window, picks, random(seed))
        assert sample.inside == sum(pick.inside for pick in picks) and sample.references is not None
        video = media.read_video(world / window.record.video)[0]
        masks = render_clip("train", number, WorldConfig(width=32, height=32, num_frames=25, fps=6.0),
                            num_subjects=number % 4).masks
        for place, (pick, entity) in enumerate(zip(picks, window.entities, strict=True)):
            large = [frame for frame in range(25) if masks[entity, frame].sum() > 0.002 * 32 * 32]
            outside = [frame for frame in large if frame not in window.frames]
            assert pick.inside == (not outside)
            counts[pick.inside] += 1
            matching = []
            for frame in outside or large:
                cut = np.dstack([video[frame], 255 * masks[entity, frame].astype(np.uint8)])
                canvas = media.reference_canvas(Image.fromarray(cut), 32, 32)
                matching += [frame] if np.array_equal(sample.references[place].permute(1, 2, 0), canvas) else []
            assert pick.frame in matching
    assert counts[False] > 5


def test_references_come_without_the_video(clips: ClipFolder) -> None:
    window = clips.window(3, random())
    picks = clips.picks(window, random())
    whole, alone = (clips.load(window, picks, random(), with_video=with_video) for with_video in (True, False))
    assert alone.video is None
    assert alone.references is not None and whole.references is not None
    assert torch.equal(alone.references, whole.references)


def test_the_subject_mask_is_that_of_clips_in_memory(clips: ClipFolder) -> None:
    for number in (2, 3, 4):
        window = clips.window(number, random(number))
        sample = clips.load(window, clips.picks(window, random()), random())
        clip = render_clip("train", number, WorldConfig(32, 32, 25, fps=6.0), num_subjects=number % 4)
        part = replace(clip, masks=clip.masks[list(window.entities)][:, window.frames])
        expected = subject_share(part, torch.Size(((len(window.frames) + 3) // 4, 4, 4)))
        assert sample.subject_mask is not None
        assert torch.allclose(sample.subject_mask, expected, atol=1e-6)


def test_masks_are_only_there_when_asked_for(world: Path, options: SampleOptions) -> None:
    assert ClipFolder(world, replace(options, with_masks=False)).sample(2, random()).subject_mask is None


def test_an_event_that_ends_where_the_next_begins_does_not_reach_into_it(
    world: Path, options: SampleOptions, tmp_path: Path
) -> None:
    record = next(iter(read_records(world)))
    events = tuple(TimedCaption(during=(start / 2, start / 2 + 0.5), text=str(start)) for start in range(8))
    write_records(tmp_path, [record.model_copy(update={"events": events[::-1]})])
    clips = ClipFolder(tmp_path, options)
    for start in range(9):
        found = clips.describe(clips.window_at(0, start)).events
        frames = [int(text) * 3 for _, text in found]
        assert frames == sorted(frames)
        for (span, _), first in zip(found, frames, strict=True):
            last = first + 2 if first < 21 else 24
            assert span == (tau(max(first - start, 0)), tau(min(last - start, 16)))


def test_a_folder_of_which_nothing_fits_says_why(world: Path, options: SampleOptions) -> None:
    with pytest.raises(ValueError, match=r"none of 14 clips can be used \(13: the clip is shorter than 81 frames .*; "
                                         "1: the clip has less than 6"):
        ClipFolder(world, replace(options, num_frames=(81,)))


def test_two_clips_of_one_name_are_refused(world: Path, options: SampleOptions, tmp_path: Path) -> None:
    record = next(iter(read_records(world)))
    write_records(tmp_path, [record, record])
    with pytest.raises(ValueError, match='two clips are called "train-000000"'):
        ClipFolder(tmp_path, options)


def test_a_video_of_another_size_is_refused(world: Path, options: SampleOptions, tmp_path: Path) -> None:
    record = next(iter(read_records(world)))
    write_records(tmp_path, [record])
    (tmp_path / "videos").mkdir()
    media.write_video(tmp_path / record.video, np.zeros((25, 16, 16, 3), np.uint8), 6)
    with pytest.raises(ValueError, match="its frames are 16 x 16, but the record says 32 x 32"):
        ClipFolder(tmp_path, options).sample(0, random())
