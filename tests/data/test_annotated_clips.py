"""Batches of clips on disk: pure functions of seed and number, whoever makes them, and every clip in each epoch."""

import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from alchemint.data.annotated_clips import AnnotatedClips
from alchemint.data.augmentation import AugmentationOptions
from alchemint.data.clip_plans import Bucket, SampleOptions
from alchemint.data.interleaved import Interleaved
from alchemint.data.record_clips import ClipFolder
from alchemint.data.samples import SampleBatch
from alchemint.record_files import read_records, write_records


@pytest.fixture(scope="module")
def clips(world: Path, options: SampleOptions) -> ClipFolder:
    return ClipFolder(world, replace(options, augmentation=AugmentationOptions()))


def same(one: SampleBatch, other: SampleBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_a_batch_depends_on_seed_and_number_alone(clips: ClipFolder) -> None:
    first = AnnotatedClips(clips, 2, seed=0)
    batches = [first[number] for number in range(2 * first.batches_per_epoch)]
    for number in (5, 0, len(batches) - 1):
        assert same(AnnotatedClips(clips, 2, seed=0)[number], batches[number])
    other_seed = AnnotatedClips(clips, 2, seed=1)
    assert not all(same(other_seed[number], batch) for number, batch in enumerate(batches))
    epochs = [[batch.clip_ids for batch in batches[:first.batches_per_epoch]],
              [batch.clip_ids for batch in batches[first.batches_per_epoch:]]]
    assert epochs[0] != epochs[1]


def test_all_of_a_batch_is_of_one_bucket_and_every_clip_comes(clips: ClipFolder) -> None:
    for size in (1, 2, 3, 5):
        dataset = AnnotatedClips(clips, size, seed=0)
        for epoch in range(3):
            batches = dataset.batches(epoch)
            assert len(batches) == dataset.batches_per_epoch
            assert all(len(batch) == size for batch in batches)
            assert all(len({clips.plans[clip].bucket for clip in batch}) == 1 for batch in batches)
            counts = Counter(clip for batch in batches for clip in batch)
            assert set(counts) == set(range(len(clips.plans)))
            for bucket, num_clips in dataset.buckets.items():
                mine = [counts[clip] for clip, plan in enumerate(clips.plans) if plan.bucket == bucket]
                assert len(mine) == num_clips
                assert sum(mine) == -(-num_clips // size) * size
                assert max(mine) - min(mine) <= 1


def test_shapes_are_those_of_the_bucket(clips: ClipFolder) -> None:
    dataset = AnnotatedClips(clips, 2, seed=0)
    shapes = set()
    for number in range(dataset.batches_per_epoch):
        batch = dataset[number]
        assert batch.videos is not None and batch.references is not None and batch.subject_mask is not None
        _, _, frames, height, width = batch.videos.shape
        num_subjects = batch.spans.shape[1]
        assert batch.references.shape == (2, num_subjects, 3, height, width)
        assert batch.subject_mask.shape == (2, (frames + 3) // 4, height // 8, width // 8)
        assert [len(words) for words in batch.words] == [num_subjects] * 2
        shapes.add(Bucket(frames, height, width, num_subjects))
    assert shapes == set(dataset.buckets)
    assert len(shapes) >= 4


@pytest.mark.parametrize("num_parts", [2, 4])
def test_the_parts_make_up_the_whole(clips: ClipFolder, num_parts: int) -> None:
    whole = AnnotatedClips(clips, 4, seed=3)
    parts = [AnnotatedClips(clips, 4, seed=3, share=(part, num_parts)) for part in range(num_parts)]
    for number in range(3):
        batch, shares = whole[number], [part[number] for part in parts]
        for part, share in enumerate(shares):
            assert share.clip_ids == batch.clip_ids[part::num_parts]
            assert share.videos is not None and batch.videos is not None
            assert torch.equal(share.videos, batch.videos[part::num_parts])
            assert share.references is not None and batch.references is not None
            assert torch.equal(share.references, batch.references[part::num_parts])
            assert torch.equal(share.spans, batch.spans[part::num_parts])
            assert (share.events is None) == (batch.events is None)
        assert sum(share.inside for share in shares) == batch.inside


def test_a_repeated_clip_has_samples_of_its_own(clips: ClipFolder) -> None:
    """The two clips without subjects have nine windows each, and here eight places in a batch."""
    dataset = AnnotatedClips(clips, 16, seed=0)
    bucket = clips.plans[0].bucket
    assert dataset.buckets[bucket] == 2 and len(clips.plans[0].starts) == 9
    batch = next(batch for batch in map(dataset.__getitem__, range(dataset.batches_per_epoch))
                 if clips.plans[0].clip_id in batch.clip_ids)
    assert Counter(Counter(batch.clip_ids).values()) == {8: 2}
    assert batch.videos is not None
    assert len({video.numpy().tobytes() for video in batch.videos}) > 6


def test_timed_captions_are_left_out_by_the_batch(clips: ClipFolder) -> None:
    dataset = AnnotatedClips(clips, 1, seed=0)
    with_events = [dataset[number].events is not None for number in range(60)]
    assert 8 <= sum(with_events) <= 28


def test_no_batch_has_more_tokens_than_the_heaviest(clips: ClipFolder) -> None:
    for seed in range(4):
        dataset = AnnotatedClips(clips, 2, seed)
        sizes = []
        for batch in map(dataset.__getitem__, range(dataset.batches_per_epoch)):
            assert batch.videos is not None and batch.references is not None
            _, _, num_frames, height, width = batch.videos.shape
            num_pixels = ((num_frames + 3) // 4 + batch.references.shape[1]) * height * width
            sizes.append((num_pixels, batch.events is not None))
        assert sizes[dataset.heaviest] == max(sizes)
        assert Interleaved([AnnotatedClips(clips, 2, seed, (part, 2)) for part in range(2)]).heaviest == (
            2 * dataset.heaviest)
    assert Interleaved([torch.arange(3), torch.arange(3)]).heaviest is None


def test_loading_processes_change_nothing(clips: ClipFolder) -> None:
    dataset = AnnotatedClips(clips, 2, seed=0)
    loader = DataLoader(AnnotatedClips(clips, 2, seed=0), batch_size=None, sampler=range(4, 9), num_workers=2)
    for number, batch in zip(range(4, 9), loader, strict=True):
        assert same(batch, dataset[number])


def test_another_clip_of_the_bucket_stands_in_for_a_broken_one(
    world: Path, options: SampleOptions, tmp_path: Path
) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    records = {record.clip_id: record for record in read_records(folder)}
    whole = AnnotatedClips(ClipFolder(folder, options), 4, seed=0)
    wide = [f"train-{number:06d}" for number in range(8, 12)]
    number = next(number for number in range(9) if set(whole[number].clip_ids) <= set(wide))
    before = whole[number]
    (folder / records[wide[1]].video).write_bytes(b"no video")
    (folder / records[wide[3]].video).unlink()
    batch = AnnotatedClips(ClipFolder(folder, options), 4, seed=0)[number]
    stands_in = {wide[0]: wide[0], wide[1]: wide[2], wide[2]: wide[2], wide[3]: wide[0]}
    assert batch.clip_ids == [stands_in[clip_id] for clip_id in before.clip_ids]
    told = sorted(reason.split(": ", 1) for reason in batch.broken)
    assert [clip_id for clip_id, _ in told] == [wide[1], wide[3]]
    assert "is not a readable video" in told[0][1] and "does not exist" in told[1][1]
    for row, clip_id in enumerate(before.clip_ids):
        if stands_in[clip_id] == clip_id:
            assert batch.videos is not None and before.videos is not None
            assert torch.equal(batch.videos[row], before.videos[row])
    for clip_id in wide:
        (folder / records[clip_id].video).write_bytes(b"no video")
    with pytest.raises(ValueError, match="world: 4 clips in a row cannot be read") as caught:
        AnnotatedClips(ClipFolder(folder, options), 4, seed=0)[number]
    assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()[1:]) == wide


def test_a_record_file_that_changed_meanwhile_is_not_taken_for_the_old(
    world: Path, options: SampleOptions, tmp_path: Path
) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    clips = ClipFolder(folder, options)
    write_records(folder, [record.model_copy(update={"caption": "changed"}) for record in read_records(folder)][1:])
    with pytest.raises(ValueError, match="cannot be read"):
        AnnotatedClips(clips, 2, seed=0)[0]


@pytest.mark.parametrize(("batch_size", "num_parts"), [(3, 2), (0, 1)])
def test_a_batch_that_cannot_be_divided_is_refused(clips: ClipFolder, batch_size: int, num_parts: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size {batch_size} can't be divided among {num_parts} processes"):
        AnnotatedClips(clips, batch_size, seed=0, share=(0, num_parts))
