"""Wherever clips lie, and whatever part of their videos they are, samples are the same."""

import uuid
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemint import media, storage
from alchemint.data.annotated_clips import AnnotatedClips
from alchemint.data.clip_plans import SampleOptions
from alchemint.data.precompute import precompute
from alchemint.data.record_clips import ClipFolder
from alchemint.data.samples import SampleBatch
from alchemint.record_files import fingerprint, read_records, write_records
from tests.data.test_precompute import ENCODERS, OPTIONS


@pytest.fixture(scope="module")
def far(world: Path) -> str:
    """The world's files in an object store."""
    far = f"memory://{uuid.uuid4()}"
    for name in storage.file_names(world, deep=True):
        storage.write_bytes(storage.join(far, name), storage.read_bytes(world / name))
    return far


def same(one: SampleBatch, other: SampleBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def batches(folder: Path | str, options: SampleOptions) -> list[SampleBatch]:
    dataset = AnnotatedClips(ClipFolder(folder, options), 2, seed=0)
    return [dataset[number] for number in range(dataset.batches_per_epoch)]


def test_an_object_store_gives_the_batches_of_a_disk(world: Path, far: str, options: SampleOptions) -> None:
    here, there = batches(world, options), batches(far, options)
    assert len(here) == len(there) > 3
    assert all(same(one, other) for one, other in zip(here, there, strict=True))
    assert any(batch.references is not None and batch.references.numel() for batch in there)
    assert not any(batch.broken for batch in there)
    assert all(same(one, other) for one, other in zip(here, batches(f"file://{world}", options), strict=True))


def test_a_cache_of_clips_in_an_object_store_is_that_of_a_disk(
    world: Path, far: str, options: SampleOptions, tmp_path: Path
) -> None:
    for name, folder in (("here", world), ("there", far)):
        precompute(tmp_path / name, ClipFolder(folder, options), ENCODERS, OPTIONS)
    written = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert fingerprint(world) == fingerprint(far)


def test_a_clip_that_lacks_its_video_in_an_object_store_is_named(world: Path, options: SampleOptions) -> None:
    bare = f"memory://{uuid.uuid4()}"
    write_records(bare, read_records(world))
    with pytest.raises(ValueError, match=r"^memory://.*: \d clips in a row cannot be read") as told:
        AnnotatedClips(ClipFolder(bare, options), 1, seed=0)[0]
    assert all("videos/train-" in line for line in str(told.value).splitlines()[1:])


@pytest.mark.parametrize("elsewhere", ["absolute", "url"])
def test_clips_within_a_longer_video_are_as_those_alone(
    world: Path, options: SampleOptions, tmp_path: Path, elsewhere: str
) -> None:
    """Two clips one after the other in a file that lies elsewhere, lossless, so that pixels can be compared."""
    chosen = list(read_records(world))[2:4]
    assert [bool(record.entities[0].references) for record in chosen] == [True, False]
    videos = [media.read_video(world / record.video)[0] for record in chosen]
    joined = tmp_path / "elsewhere" / "joined.mp4"
    media.write_video(joined, np.concatenate([np.zeros((5, 32, 32, 3), np.uint8), *videos]), 6, crf=0)
    address = str(joined) if elsewhere == "absolute" else f"memory://{uuid.uuid4()}/joined.mp4"
    storage.write_bytes(address, joined.read_bytes())
    parts = [record.model_copy(update={"video": address, "first_frame": first})
             for record, first in zip(chosen, (5, 5 + len(videos[0])), strict=True)]
    for folder, records in (("parts", parts), ("alone", chosen)):
        write_records(tmp_path / folder, records)
    for name in storage.file_names(world / "references"):
        storage.write_bytes(tmp_path / "parts" / "references" / name, (world / "references" / name).read_bytes())
        storage.write_bytes(tmp_path / "alone" / "references" / name, (world / "references" / name).read_bytes())
    for record, video in zip(chosen, videos, strict=True):
        media.write_video(tmp_path / "alone" / record.video, video, 6, crf=0)
    found, expected = (ClipFolder(tmp_path / folder, options) for folder in ("parts", "alone"))
    cut = 0
    for number in range(2):
        for seed in range(6):
            window = found.window(number, np.random.default_rng(seed))
            cut += sum(pick.frame is not None for pick in found.picks(window, np.random.default_rng(seed)))
            one, other = (clips.sample(number, np.random.default_rng(seed)) for clips in (found, expected))
            assert one.spans == other.spans and one.events == other.events and one.words == other.words
            for ours, theirs in ((one.video, other.video), (one.references, other.references)):
                assert ours is not None and theirs is not None and ours.shape == theirs.shape
                # Colours are subsampled anew from what was decoded.
                assert (ours.int() - theirs.int()).abs().float().mean() < 2
                assert ours.float().std() > 10
    assert cut > 3
