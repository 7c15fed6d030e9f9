"""The pool of encoded clips: what a step gets does not depend on the steps before; what a batch holds is the clips'."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from alchemint import media, timeline
from alchemint.data.encoded_clips import (
    ClipBatch,
    EncodedClips,
    PoolOptions,
    encode_clips,
    on_the_way,
    stills_of,
    subject_share,
)
from alchemint.model.latents import as_pixels, encode_video

Source = Callable[[int, int | None], Any]
Encoder = Callable[[torch.Tensor], torch.Tensor]

OPTIONS = PoolOptions(batch_size=2, num_groups=3, uses=4, subject_shares=(0.3, 0.4, 0.3), event_share=0.5, num_lanes=1)
NUM_STEPS = 40


@pytest.fixture(scope="module")
def encoder(vae: AutoencoderKLWan) -> Encoder:
    return torch.no_grad()(lambda videos: encode_video(vae, as_pixels(videos)))


@pytest.fixture(scope="module")
def batches(source: Source, encoder: Encoder) -> list[ClipBatch]:
    dataset = EncodedClips(source, encoder, OPTIONS, seed=0, num_steps=NUM_STEPS)
    assert len(dataset) == NUM_STEPS
    return [dataset[step] for step in range(NUM_STEPS)]


def same(one: ClipBatch, other: ClipBatch) -> bool:
    return all(torch.equal(value, asdict(other)[name]) if isinstance(value, torch.Tensor)
               else value == asdict(other)[name] for name, value in asdict(one).items())


def test_a_step_does_not_depend_on_those_before(
    source: Source, encoder: Encoder, batches: list[ClipBatch]
) -> None:
    for step in (*range(8), 21, NUM_STEPS - 1):
        fresh = EncodedClips(source, encoder, OPTIONS, seed=0, num_steps=NUM_STEPS)
        assert same(fresh[step], batches[step])
    other_seed = EncodedClips(source, encoder, OPTIONS, seed=1, num_steps=NUM_STEPS)
    assert not all(same(other_seed[step], batches[step]) for step in range(8))


def test_a_group_is_encoded_once_and_serves_several_steps(source: Source, encoder: Encoder) -> None:
    asked: list[int] = []

    def noted(index: int, num_subjects: int | None) -> Any:
        asked.append(index)
        return source(index, num_subjects)

    dataset = EncodedClips(noted, encoder, OPTIONS, seed=0, num_steps=NUM_STEPS)
    for step in range(NUM_STEPS):
        dataset[step]
    assert len(asked) == len(set(asked))
    num_groups = len(asked) / OPTIONS.batch_size
    assert NUM_STEPS / OPTIONS.uses / 2 < num_groups <= NUM_STEPS / OPTIONS.uses + OPTIONS.num_groups


def test_lanes_share_no_clips(source: Source, encoder: Encoder) -> None:
    asked: dict[int, set[int]] = {0: set(), 1: set()}
    for lane, indices in asked.items():
        def noted(index: int, num_subjects: int | None, indices: set[int] = indices) -> Any:
            indices.add(index)
            return source(index, num_subjects)

        dataset = EncodedClips(noted, encoder, replace(OPTIONS, num_lanes=2), seed=0, num_steps=NUM_STEPS)
        for step in range(lane, NUM_STEPS, 2):
            dataset[step]
    assert asked[0]
    assert asked[1]
    assert not asked[0] & asked[1]


def test_clips_of_a_batch_have_equal_numbers_of_subjects(batches: list[ClipBatch]) -> None:
    for batch in batches:
        num_subjects = batch.spans.shape[1]
        assert batch.latents.shape == (2, 4, 4, 4, 4)
        assert batch.reference_latents.shape == (2, num_subjects, 4, 4, 4)
        assert batch.spans.shape == (2, num_subjects, 2)
        assert [len(words) for words in batch.words] == [num_subjects] * 2
        assert len(batch.prompts) == 2
    assert {batch.spans.shape[1] for batch in batches} == {0, 1, 2}
    assert {batch.events is None for batch in batches} == {True, False}


def test_a_batch_holds_what_its_clips_show(source: Source, encoder: Encoder, vae: AutoencoderKLWan) -> None:
    clips = [source(index, 2) for index in (3, 4)]
    batch = encode_clips(clips, encoder, with_events=True)
    assert batch.events is not None
    for row, clip in enumerate(clips):
        pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None]
        assert torch.allclose(batch.latents[row], encoder(pixels)[0], atol=1e-4)
        assert batch.prompts[row] == clip.caption
        assert batch.words[row] == [subject.word for subject in clip.subjects]
        for number, subject in enumerate(clip.subjects):
            canvas = media.reference_canvas(Image.fromarray(subject.references[0]), 32, 32)
            still = torch.from_numpy(np.asarray(canvas)).permute(2, 0, 1)[None, :, None]
            assert torch.allclose(batch.reference_latents[row, number], encoder(still)[0, :, 0], atol=1e-4)
        assert [text for _, text in batch.events[row]] == [event.text for event in clip.events]
        starts = [span[0] for span, _ in batch.events[row]]
        assert starts == sorted(starts)


def test_references_may_be_cut_out_of_the_clips_own_frames(
    source: Source, encoder: Encoder, vae: AutoencoderKLWan
) -> None:
    clips = [source(index, 2) for index in (3, 4)]
    batch = encode_clips(clips, encoder, with_events=False, canvas_share=0.5, own_frames=np.random.default_rng(0))
    draws = np.random.default_rng(0)
    for row, clip in enumerate(clips):
        for number in range(2):
            frame = max(range(len(clip.frames)), key=lambda frame: clip.masks[number, frame].sum())
            mask = clip.masks[number, frame]
            picture = np.zeros((32, 32, 4), np.uint8)
            picture[mask] = [(*clip.frames[frame][place], 255) for place in zip(*np.nonzero(mask), strict=True)]
            canvas = on_the_way(picture, 0.5, draws.uniform())
            still = torch.from_numpy(np.asarray(canvas)).permute(2, 0, 1)[None, :, None]
            assert torch.allclose(batch.reference_latents[row, number], encoder(still)[0, :, 0], atol=1e-4)


def test_a_cut_out_moves_from_its_place_to_the_middle() -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[20:28, 2:14] = (200, 60, 20, 255)
    there = on_the_way(picture, 0.5, 0.0)
    assert np.array_equal(there, np.where(picture[..., 3:] > 0, picture[..., :3], media.NEUTRAL))
    canvas = media.reference_canvas(Image.fromarray(picture), 32, 32, share=0.5)
    assert np.abs(on_the_way(picture, 0.5, 1.0).astype(int) - canvas).mean() < 4
    centres = [np.argwhere((on_the_way(picture, 0.5, way) != media.NEUTRAL).any(-1)).mean(0)
               for way in (0.0, 0.5, 1.0)]
    assert centres[1] == pytest.approx((centres[0] + centres[2]) / 2, abs=0.6)
    nothing = np.zeros((32, 32, 4), np.uint8)
    assert (on_the_way(nothing, 0.5, 0.5) == media.NEUTRAL).all()


def test_stills_are_latents_that_show_all_subjects(source: Source, encoder: Encoder) -> None:
    batch = encode_clips([source(index, 2) for index in range(6)], encoder, with_events=True)
    stills = stills_of(batch, 5, np.random.default_rng(0))
    assert stills.latents.shape == (30, 4, 1, 4, 4)
    assert stills.subject_mask.shape == (30, 1, 4, 4)
    assert not stills.spans.any()
    assert stills.events is None
    for row, latent in enumerate(stills.latents):
        clip, index = next((clip, index) for clip in range(6) for index in range(4)
                           if torch.equal(batch.latents[clip, :, index], latent[:, 0]))
        assert all(start <= index <= end for start, end in batch.spans[clip].tolist())
        assert torch.equal(stills.reference_latents[row], batch.reference_latents[clip])
        assert torch.equal(stills.subject_mask[row, 0], batch.subject_mask[clip, index])
        assert stills.prompts[row] == batch.prompts[clip]
        assert stills.words[row] == batch.words[clip]


def test_a_batch_without_a_common_latent_stays_as_it_is(source: Source, encoder: Encoder) -> None:
    batch = encode_clips([source(index, 2) for index in range(2)], encoder, with_events=False)
    apart = replace(batch, spans=torch.tensor([[[0.0, 1.0], [2.0, 3.0]]] * 2))
    assert stills_of(apart, 5, np.random.default_rng(0)) is apart


def test_stills_serve_their_share_of_the_steps(source: Source, encoder: Encoder) -> None:
    options = replace(OPTIONS, stills_share=0.5, subject_shares=(0.5, 0.5))
    dataset = EncodedClips(source, encoder, options, seed=0, num_steps=NUM_STEPS)
    lengths = [dataset[step].latents.shape[2] for step in range(NUM_STEPS)]
    assert set(lengths) == {1, 4}
    again = EncodedClips(source, encoder, options, seed=0, num_steps=NUM_STEPS)
    assert same(again[NUM_STEPS - 1], dataset[NUM_STEPS - 1])


def test_own_frames_serve_their_share_of_the_groups(source: Source, encoder: Encoder) -> None:
    apart, own = (EncodedClips(source, encoder, replace(OPTIONS, own_frame_share=share), seed=0, num_steps=NUM_STEPS)
                  for share in (0.0, 1.0))
    for step in range(4):
        assert torch.equal(apart[step].latents, own[step].latents)
        if apart[step].reference_latents.numel():
            assert not torch.equal(apart[step].reference_latents, own[step].reference_latents)


def test_spans_reach_from_the_first_to_the_last_frame_that_shows_the_subject(source: Source, encoder: Encoder) -> None:
    """Told from the masks: a frame shows a subject when more than 1 in 500 of its pixels do."""
    clips = [source(index, 2) for index in range(6)]
    batch = encode_clips(clips, encoder, with_events=False)
    for row, clip in enumerate(clips):
        for number in range(2):
            shown = [frame for frame, mask in enumerate(clip.masks[number]) if mask.sum() > 32 * 32 / 500]
            expected = [0.0 if frame == 0 else (frame + 1.5) / 4 for frame in (shown[0], shown[-1])]
            assert batch.spans[row, number].tolist() == expected


def test_the_share_of_subjects_against_a_loop(source: Source) -> None:
    clip = source(1, 2)
    share = subject_share(clip, torch.Size((4, 4, 4)))
    for latent in range(4):
        first, last = timeline.frames_of_latent(latent)
        for y in range(4):
            for x in range(4):
                patches = [clip.masks[:, frame, 8 * y:8 * y + 8, 8 * x:8 * x + 8].any(0)
                           for frame in range(first, last + 1)]
                assert share[latent, y, x].item() == pytest.approx(max(patch.mean() for patch in patches), abs=1e-6)
    assert 0 < share.mean() < 1


def test_clips_without_subjects_make_a_batch(source: Source, encoder: Encoder) -> None:
    batch = encode_clips([source(index, 0) for index in range(3)], encoder, with_events=True)
    assert batch.reference_latents.shape == (3, 0, 4, 4, 4)
    assert batch.spans.shape == (3, 0, 2)
    assert batch.words == [[], [], []]
    assert not batch.subject_mask.any()
    assert same(batch.to("cpu"), batch)


def test_places_say_which_spot_of_the_reference_a_latent_shows(source: Source, encoder: Encoder) -> None:
    """Told from the pixels: the middle of the latent, taken to the reference and from there to its canvas."""
    clips = [source(index, 2) for index in range(8)]
    batch = encode_clips(clips, encoder, with_events=False, canvas_share=0.6, with_places=True)
    assert batch.places is not None
    assert batch.places.shape == (8, 2, 4, 4, 4, 2)
    known = 0
    for row, number, latent, y, x in itertools.product(range(8), range(2), range(4), range(4), range(4)):
        clip, place = clips[row], batch.places[row, number, latent, y, x]
        frame = 0 if latent == 0 else 4 * latent - 1
        block = clip.masks[number, frame, 8 * y:8 * y + 8, 8 * x:8 * x + 8]
        assert place.isnan().all().item() == (block.mean() <= 0.5)
        if place.isnan().any():
            continue
        known += 1
        subject = clip.subjects[number]
        spot = subject.to_reference[frame] @ (8 * x + 4, 8 * y + 4, 1)
        rows, columns = np.nonzero(subject.references[0][..., 3])
        left, top, wide, high = (columns.min(), rows.min(), columns.max() + 1 - columns.min(),
                                 rows.max() + 1 - rows.min())
        scale = 0.6 * 32 / max(wide, high)
        canvas = (spot - (left, top)) * scale + (32 - np.array([wide, high]) * scale) / 2
        assert place.tolist() == pytest.approx((canvas[::-1] / 8).tolist(), abs=0.15)
    assert known > 20


def test_stills_keep_their_places(source: Source, encoder: Encoder) -> None:
    batch = encode_clips([source(index, 2) for index in range(3)], encoder, with_events=False, with_places=True)
    stills = stills_of(batch, 4, np.random.default_rng(0))
    assert batch.places is not None
    assert stills.places is not None
    assert stills.places.shape == (12, 2, 1, 4, 4, 2)
    for row, latent in enumerate(stills.latents):
        clip, index = next((clip, index) for clip in range(3) for index in range(4)
                           if torch.equal(batch.latents[clip, :, index], latent[:, 0]))
        assert torch.equal(stills.places[row, :, 0].nan_to_num(-9), batch.places[clip, :, index].nan_to_num(-9))


def test_cut_outs_of_own_frames_have_no_places(source: Source, encoder: Encoder) -> None:
    batch = encode_clips([source(0, 1)], encoder, with_events=False, own_frames=np.random.default_rng(0),
                         with_places=True)
    assert batch.places is None
    assert encode_clips([source(0, 1)], encoder, with_events=False).places is None
