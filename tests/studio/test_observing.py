"""Watching the shipped toy model at work."""

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alchemint.cli.models import find_model, load_pipeline
from alchemint.denoising import branch_name
from alchemint.diffusion.guidance import BOTH, Guidance
from alchemint.long_video import long_video, windows_of
from alchemint.model.attention_record import observe_attention
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Storyboard, load_storyboard
from alchemint.studio.observing import Observer

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 4


@pytest.fixture(scope="module")
def pipeline() -> AlchemintPipeline:
    return load_pipeline(find_model("toy"), "cpu", "float32")


def board_of(pipeline: AlchemintPipeline, name: str, **changes: Any) -> Storyboard:
    board = load_storyboard(EXAMPLES / f"{name}.yaml").model_copy(update=changes)
    return board.resolve(pipeline.defaults)


def made(pipeline: AlchemintPipeline, board: Storyboard, observer: Observer | None = None,
         **options: Any) -> np.ndarray:
    watched = {} if observer is None else {"callback_on_step_end": observer.callback,
                                           "callback_on_step_end_tensor_inputs": observer.tensor_inputs}
    return np.stack(list(long_video(pipeline, board, **{"num_inference_steps": STEPS, **watched, **options})))


def test_the_video_stays_the_same_byte_for_byte(pipeline: AlchemintPipeline) -> None:
    board, shown = board_of(pipeline, "park"), list[bytes]()
    with Observer(pipeline, 2, shown.append, windows_of(board, 33)) as observer:
        watched = made(pipeline, board, observer)
    assert np.array_equal(watched, made(pipeline, board))
    assert observer.attention_fault is None

    # The last preview is of the latents that the video is decoded from; the one before is on the way.
    strips = [np.asarray(Image.open(BytesIO(png))).astype(float) for png in shown]
    assert [strip.shape for strip in strips] == [(64, 9 * 64, 3)] * 2
    truth = np.concatenate(list(watched[[2, 5, 9, 12, 16, 20, 23, 27, 30]]), 1)
    far, near = (np.sqrt(np.square(strip - truth).mean()) for strip in strips)
    assert near < 25
    assert near < far

    attention = observer.attention()
    assert list(attention) == ["fox", "balloon"]
    for shares in attention.values():
        assert len(shares) == 9
        assert 0 < min(shares) < max(shares) < 1
    assert observer.attention() == attention


def test_views_and_intervals_of_a_subject_are_summed(pipeline: AlchemintPipeline) -> None:
    board = board_of(pipeline, "visits")
    with Observer(pipeline, windows=windows_of(board, 33)) as observer:
        made(pipeline, board, observer)
    with observe_attention(pipeline.transformer, branch_name(BOTH)) as record:
        made(pipeline, board)
    shares = record.take()
    assert shares is not None
    assert shares.shape == (1, 9, 4)
    assert observer.attention() == {"duck": pytest.approx(shares[0].sum(1).tolist(), abs=1e-5)}


@pytest.mark.parametrize("options", [{"batch_branches": False}, {"guidance": Guidance(interval=(0.0, 0.0))}])
def test_the_conditional_branch_is_what_counts(pipeline: AlchemintPipeline, options: dict[str, Any]) -> None:
    """At the first step all have the same noise: alone, one after the other or in a batch, the branch is the same."""
    board, found = board_of(pipeline, "park"), []
    for each in ({}, options):
        with Observer(pipeline, windows=windows_of(board, 33)) as observer:
            made(pipeline, board, observer, num_inference_steps=1, **each)
        found.append(observer.attention())
    for name in ("fox", "balloon"):
        assert found[0][name] == pytest.approx(found[1][name], abs=2e-5)


def test_without_that_branch_nothing_is_told(pipeline: AlchemintPipeline) -> None:
    board = board_of(pipeline, "park")
    with Observer(pipeline, windows=windows_of(board, 33)) as observer:
        made(pipeline, board, observer, num_inference_steps=1, guidance=Guidance("joint", 2.0, 2.0, 0.0))
    assert observer.attention() == {}


def test_a_long_video_is_told_on_the_axis_of_the_whole(pipeline: AlchemintPipeline) -> None:
    appears = {"fox": ((0.0, 2.0),), "robot": ((4.5, 6.0),)}
    subjects = [subject.model_copy(update={"appears": appears[subject.name]})
                for subject in load_storyboard(EXAMPLES / "long.yaml").subjects if subject.name in appears]
    board = board_of(pipeline, "long", duration=6.0, subjects=tuple(subjects))
    windows = windows_of(board, 33)
    assert [window.frames for window in windows] == [(0, 32), (16, 48)]
    with Observer(pipeline, windows=windows) as observer:
        made(pipeline, board, observer, num_inference_steps=2)
    attention = observer.attention()
    assert {name: len(shares) for name, shares in attention.items()} == {"fox": 13, "robot": 13}

    # Only the first window has the fox, only the second the robot; latents 4 to 8 are in both.
    with Observer(pipeline, windows=windows[:1]) as observer:
        made(pipeline, windows[0].storyboard, observer, num_inference_steps=2)
    first = observer.attention()["fox"]
    assert attention["fox"][:4] == pytest.approx(first[:4], abs=2e-5)
    assert attention["fox"][4:9] == pytest.approx([share / 2 for share in first[4:]], abs=2e-5)
    assert attention["fox"][9:] == [0, 0, 0, 0]
    assert attention["robot"][:4] == [0, 0, 0, 0]
    assert min(attention["robot"][4:]) > 0


def test_both_experts_are_observed(pipeline: AlchemintPipeline) -> None:
    """Two experts of the same weights pay what the one does."""
    board, found = board_of(pipeline, "park"), []
    same = ("width", "height", "num_frames", "fps", "max_prompt_tokens", "canvas_share", "guidance")
    parts = {**pipeline.components, "transformer_2": deepcopy(pipeline.transformer)}
    twins = AlchemintPipeline(**parts, **{name: pipeline.config[name] for name in same}, boundary_ratio=0.9)
    twins.set_progress_bar_config(disable=True)
    for each in (pipeline, twins):
        with Observer(each, windows=windows_of(board, 33)) as observer:
            made(each, board, observer)
        found.append(observer.attention())
    for name in ("fox", "balloon"):
        assert found[1][name] == pytest.approx(found[0][name], abs=2e-5)
    with observe_attention(twins.transformer, branch_name(BOTH)) as first, \
            observe_attention(twins.transformer_2, branch_name(BOTH)) as second:
        made(twins, board)
    assert first.take() is not None
    assert second.take() is not None


def test_what_cannot_be_observed_is_told(pipeline: AlchemintPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    board, shown = board_of(pipeline, "park"), list[bytes]()
    monkeypatch.setattr(pipeline.transformer, "context_parallel", object())
    with Observer(pipeline, 1, shown.append, windows_of(board, 33)) as observer:
        monkeypatch.undo()
        made(pipeline, board, observer, num_inference_steps=1)
    assert observer.attention() == {}
    assert "context_parallel 1" in str(observer.attention_fault)
    assert len(shown) == 1


def test_a_preview_without_what_it_needs_is_refused(pipeline: AlchemintPipeline) -> None:
    with Observer(pipeline, 1, lambda _: None) as observer:
        assert observer.tensor_inputs == ("latents", "denoised")
        with pytest.raises(ValueError, match="needs the tensor \"denoised\"; give the pipeline this observer's"):
            observer.callback(pipeline, 0, torch.tensor(1000.0), {})
    assert Observer(pipeline).tensor_inputs == ("latents",)


def test_an_error_on_the_way_leaves_no_hook(pipeline: AlchemintPipeline) -> None:
    board = board_of(pipeline, "park")

    def fail(_: bytes) -> None:
        raise RuntimeError("the page is gone")

    with pytest.raises(RuntimeError, match="the page is gone"), \
            Observer(pipeline, 1, fail, windows_of(board, 33)) as observer:
        made(pipeline, board, observer, num_inference_steps=1)
    assert not pipeline.transformer._diffusers_hook.hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipeline.transformer.modules())
