"""Batches hold their samples, row by row."""

from dataclasses import fields, replace

import pytest
import torch

from alchemint.data.samples import Sample, to_batch


def sample_of(number: int, num_subjects: int = 2) -> Sample:
    torch.manual_seed(number)
    return Sample(clip_id=f"clip {number}", video=torch.randint(0, 256, (3, 5, 16, 16), dtype=torch.uint8),
                  references=torch.randint(0, 256, (num_subjects, 3, 16, 16), dtype=torch.uint8),
                  latents=None, reference_latents=None, spans=((0.0, 1.5), (0.625, 1.0))[:num_subjects],
                  subject_mask=torch.rand(2, 2, 2), prompt=f"a {number}", words=("fox", "owl")[:num_subjects],
                  events=(((0.0, 1.0), f"it goes {number}"),) * number, inside=number)


def test_a_batch_holds_its_samples() -> None:
    samples = [sample_of(number) for number in range(3)]
    batch = to_batch(samples, with_events=True, broken=["x: gone"])
    assert batch.videos is not None and batch.references is not None and batch.subject_mask is not None
    for row, sample in enumerate(samples):
        assert torch.equal(batch.videos[row], sample.video)
        assert torch.equal(batch.references[row], sample.references)
        assert torch.equal(batch.subject_mask[row], sample.subject_mask)
        assert batch.spans[row].tolist() == [list(span) for span in sample.spans]
    assert batch.latents is batch.reference_latents is None
    assert (batch.clip_ids, batch.prompts) == (["clip 0", "clip 1", "clip 2"], ["a 0", "a 1", "a 2"])
    assert batch.words == [["fox", "owl"]] * 3
    assert batch.events == [list(sample.events) for sample in samples]
    assert (batch.inside, batch.broken) == (3, ("x: gone",))
    assert to_batch(samples, with_events=False).events is None


def test_a_batch_without_subjects() -> None:
    batch = to_batch([sample_of(number, 0) for number in range(2)], with_events=False)
    assert batch.references is not None
    assert batch.spans.shape == (2, 0, 2) and batch.references.shape == (2, 0, 3, 16, 16)
    assert batch.words == [[], []]


def test_all_tensors_and_nothing_else_go_to_a_device() -> None:
    batch = to_batch([replace(sample_of(1), video=None, latents=torch.rand(4, 2, 2, 2))], with_events=True)
    moved = batch.to("meta")
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert after.device.type == "meta" and (after.shape, after.dtype) == (before.shape, before.dtype)
        else:
            assert after == before


@pytest.mark.gpu
def test_tensors_are_pinned() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch = to_batch([sample_of(0)], with_events=False).pin_memory()
    assert batch.videos is not None
    assert batch.videos.is_pinned() and batch.spans.is_pinned()
