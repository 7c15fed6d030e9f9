"""Faster sampling gives the same videos: kernels, compiled blocks and step caches, in one process."""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch._dynamo.utils import counters
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint.acceleration import AccelerationOptions, StepCache, accelerate, calibrated, check
from alchemint.diffusion.guidance import Guidance
from alchemint.pipeline import AlchemintPipeline
from tests.test_pipeline import BOARDS, EARLY, SHAPE, latents_of, new_board, subject

NewPipeline = Callable[..., AlchemintPipeline]
CONFIG = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2}
BOARD = new_board(subject(0), subject(2, (0.5, 1.0)), events=[EARLY], seed=7)
NEVER, ALWAYS = StepCache("first-block", 0.0), StepCache("first-block", 1e9)


@pytest.fixture(scope="module")
def new_pipeline(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
    new_transformer: Callable[..., Any]
) -> NewPipeline:
    """A function that builds a pipeline, always with the same weights, with one expert or two."""

    def build(acceleration: AccelerationOptions | None = None, experts: int = 1, **options: Any) -> AlchemintPipeline:
        second = {"transformer_2": new_transformer(seed=1, **options), "boundary_ratio": 0.9} if experts == 2 else {}
        pipeline = AlchemintPipeline(
            tokenizer, text_encoder, vae, new_transformer(**options), FlowMatchEulerDiscreteScheduler(shift=5.66),
            width=32, height=32, num_frames=9, fps=8.0, max_prompt_tokens=12, max_event_tokens=6, **second)
        pipeline.set_progress_bar_config(disable=True)
        accelerate(pipeline, acceleration or AccelerationOptions())
        return pipeline

    return build


def computed(pipeline: AlchemintPipeline, num_steps: int, **options: Any) -> list[int]:
    """How often, in each step of making BOARD, a transformer's last block was computed and not skipped."""
    steps = [0]

    def count(*_: Any) -> None:
        steps[-1] += 1

    def next_step(*_: Any) -> dict[str, Any]:
        steps.append(0)
        return {}

    hooks = [transformer.blocks[-1].attn2.register_forward_hook(count) for transformer in pipeline.transformers]
    latents_of(pipeline, BOARD, num_inference_steps=num_steps, callback_on_step_end=next_step, **options)
    for hook in hooks:
        hook.remove()
    return steps[:num_steps]


# Kernels


@pytest.mark.parametrize("backend", ["native", "_native_math", "_native_flash"])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_attention_backends_agree(new_pipeline: NewPipeline, backend: str, reference_attention: str) -> None:
    """Events among them, whose mask a flash kernel refuses: they stay with torch's own choice."""
    options = {"reference_attention": reference_attention}
    fast = new_pipeline(AccelerationOptions(attention_backend=backend), **options)
    try:
        made = latents_of(fast, BOARD)
    finally:
        fast.transformer.reset_attention_backend()
    assert torch.allclose(made, latents_of(new_pipeline(**options), BOARD), atol=1e-4)
    assert fast.transformer.blocks[0].attn1.processor._attention_backend is None


@pytest.mark.parametrize(("options", "message"), [
    ({"attention_backend": "sage"}, r"backend \"sage\" does not run here \(.*sageattention.*on cpu in float32 use one "
                                    r"of native, _native_flash"),
    ({"attention_backend": "_native_cudnn"}, r"does not run here .* use one of .*_native_math"),
    ({"attention_backend": "swift"}, r"\"swift\" does not run here \(there is none of this name\)"),
    ({"context_parallel": 3}, "context_parallel 3 does not divide the model's 2 attention heads"),
    ({"context_parallel": 2, "branch_parallel": 3}, "2 x branch_parallel 3 takes 6 processes, but there is 1; start "
                                                    "them with torchrun --nproc-per-node 6 -m alchemint generate"),
])
def test_what_does_not_run_here_is_told_beforehand(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(AccelerationOptions(**options), CONFIG, "cpu", "float32")


def test_what_runs_here_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("native", "_native_math", "_native_flash"):
        check(AccelerationOptions(attention_backend=backend), CONFIG, "cpu", "float32")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(AccelerationOptions(branch_parallel=2), CONFIG, "cpu", "float32")
    with pytest.raises(ValueError, match="takes 1 processes, but there are 2"):
        check(AccelerationOptions(), CONFIG, "cpu", "float32")


@pytest.mark.parametrize(("make", "message"), [
    (lambda: AccelerationOptions(attention_backend="flex"), "add compile"),
    (lambda: AccelerationOptions(context_parallel=0), "context_parallel is 0; use at least 1"),
    (lambda: AccelerationOptions(step_cache=StepCache("calibrate", 0.0), branch_parallel=2), "use one process"),
    (lambda: StepCache("tea", 0.1), '"tea" is unknown; use one of first-block, mag, calibrate'),
    (lambda: StepCache("first-block", float("nan")), "threshold is nan"),
    (lambda: StepCache("mag", 0.1), "needs a table of at least two positive ratios"),
    (lambda: StepCache("mag", 0.1, (1.0, -1.0)), "needs a table"),
    (lambda: check(AccelerationOptions(step_cache=ALWAYS), {**CONFIG, "num_layers": 1}, "cpu", "float32"),
     "needs two blocks at least"),
])
def test_what_cannot_work_is_told_in_a_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_processes_have_to_be_there(new_pipeline: NewPipeline) -> None:
    with pytest.raises(ValueError, match=r"2 x 1 processes .* but there is 1; start as many with torchrun"):
        new_pipeline().parallelise(branches=2)


# Compiled blocks


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile trace as ever, but run the graphs as they are."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("reference_attention", "names"), [("full", ["events", "nobody"]), ("one_way", ["events"])])
def test_blocks_compile_whole(new_pipeline: NewPipeline, reference_attention: str, names: list[str]) -> None:
    """References, encoded ones, events and none of them: no graph breaks."""
    options = {"reference_attention": reference_attention}
    plain, compiled = new_pipeline(**options), new_pipeline(AccelerationOptions(compile=True), **options)
    for name in names:
        made, expected = (latents_of(pipe, BOARDS[name], num_inference_steps=2) for pipe in (compiled, plain))
        assert torch.allclose(made, expected, atol=1e-4), name
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("cache", [StepCache("first-block", 0.3), StepCache("mag", 0.5, (1.0, 1.1, 1.05, 1.1))],
                         ids=lambda cache: cache.kind)
def test_blocks_compile_whole_inside_a_step_cache(new_pipeline: NewPipeline, cache: StepCache) -> None:
    plain = new_pipeline(AccelerationOptions(step_cache=cache))
    compiled = new_pipeline(AccelerationOptions(step_cache=cache, compile=True))
    expected = latents_of(plain, BOARD, num_inference_steps=6)
    assert torch.allclose(latents_of(compiled, BOARD, num_inference_steps=6), expected, atol=1e-4)
    assert not torch.allclose(latents_of(new_pipeline(), BOARD, num_inference_steps=6), expected, atol=1e-4)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


# Step caches


@pytest.mark.parametrize("cache", [NEVER, StepCache("mag", 0.0, (1.1,) * 4)], ids=lambda cache: cache.kind)
@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_a_cache_of_threshold_zero_changes_nothing(
    new_pipeline: NewPipeline, cache: StepCache, experts: int, reference_attention: str
) -> None:
    options = {"experts": experts, "reference_attention": reference_attention}
    plain, cached = new_pipeline(**options), new_pipeline(AccelerationOptions(step_cache=cache), **options)
    for batched in (True, False):
        made, expected = (latents_of(pipe, BOARD, batch_branches=batched) for pipe in (cached, plain))
        assert torch.equal(made, expected)


@pytest.mark.parametrize("cache", [ALWAYS, StepCache("mag", 1e9, (1.0, 1.2, 1.1, 1.0))], ids=lambda cache: cache.kind)
@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_skipped_steps_are_the_same_in_one_batch_and_apart(
    new_pipeline: NewPipeline, cache: StepCache, experts: int, reference_attention: str
) -> None:
    options = {"experts": experts, "reference_attention": reference_attention}
    cached = new_pipeline(AccelerationOptions(step_cache=cache), **options)
    batched, apart = (latents_of(cached, BOARD, batch_branches=way, num_inference_steps=6) for way in (True, False))
    assert torch.allclose(batched, apart, atol=1e-4)
    assert not torch.allclose(batched, latents_of(new_pipeline(**options), BOARD, num_inference_steps=6), atol=1e-3)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1e9])
@pytest.mark.parametrize("reference_attention", ["full", "one_way"])
def test_a_branch_is_what_it_is_without_the_others(
    new_pipeline: NewPipeline, threshold: float, reference_attention: str
) -> None:
    """With the same samples at every step, the full branch's velocities do not depend on what else is evaluated."""
    pipeline = new_pipeline(AccelerationOptions(step_cache=StepCache("first-block", threshold)),
                            reference_attention=reference_attention)
    samples = torch.linspace(1, 0.2, 6).view(-1, 1, 1, 1, 1, 1) * torch.randn(
        1, 1, *SHAPE, generator=torch.Generator().manual_seed(0)) + 0.1 * torch.randn(
        6, 1, *SHAPE, generator=torch.Generator().manual_seed(1))

    def velocities(guidance: Guidance) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def note(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if not kwargs.get("encode_only"):
                seen.append(output[0])

        hook = pipeline.transformer.register_forward_hook(note, with_kwargs=True)
        latents_of(pipeline, BOARD, num_inference_steps=6, latents=samples[0], guidance=guidance, batch_branches=False,
                   callback_on_step_end=lambda _pipe, step, *_: {"latents": samples[min(step + 1, 5)]})
        hook.remove()
        return seen

    alone, guided = velocities(Guidance("chained", 1, 1)), velocities(Guidance())
    assert (len(alone), len(guided)) == (6, 18)
    assert all(torch.equal(one, other) for one, other in zip(alone, guided[2::3], strict=True))


@pytest.mark.parametrize("cache", [ALWAYS, StepCache("mag", 1e9, (1.0,) * 8)], ids=lambda cache: cache.kind)
def test_a_branch_that_pauses_begins_anew(new_pipeline: NewPipeline, cache: StepCache) -> None:
    pipeline = new_pipeline(AccelerationOptions(step_cache=cache))
    steps = computed(pipeline, 8, guidance=Guidance(image_interval=(0.25, 0.75)), batch_branches=False)
    # Mag skips nothing in the first fifth of the steps.
    assert steps == [2, 0 if cache.kind == "first-block" else 2, 3, 0, 0, 0, 2, 0]


def steps_of_mag(ratios: list[float], threshold: float, begins: set[int]) -> list[int]:
    """Which steps the paper's rule computes: those of the first fifth, the first ones, and where the error is large."""
    made, ratio, error, skipped = [], 1.0, 0.0, 0
    for step, change in enumerate(ratios):
        if step in begins:
            ratio, error, skipped = 1.0, 0.0, 0
        if step >= int(0.2 * len(ratios) + 0.5):
            ratio, skipped = ratio * change, skipped + 1
            error += abs(1 - ratio)
            if step not in begins and error <= threshold and skipped <= 3:
                continue
            ratio, error, skipped = 1.0, 0.0, 0
        made.append(step)
    return made


def test_the_table_is_read_at_the_steps_of_the_call(new_pipeline: NewPipeline) -> None:
    """Although the second expert, and a set of branches, begin late."""
    ratios = torch.rand(10, generator=torch.Generator().manual_seed(5)).mul(0.3).add(0.85).tolist()
    pipeline = new_pipeline(AccelerationOptions(step_cache=StepCache("mag", 0.12, tuple(ratios))), experts=2)
    times: list[float] = []
    latents_of(pipeline, BOARD, num_inference_steps=10, guidance=Guidance("chained", 1, 1),
               callback_on_step_end=lambda _pipe, _step, time, _: times.append(float(time)) or {})
    second = next(step for step, time in enumerate(times) if time < 900)
    assert 1 < second < 9
    for guidance, begins in ((Guidance("chained", 1, 1), {0, second}),
                             (Guidance(interval=(0.0, 0.6)), {0, second, 6})):
        steps = computed(pipeline, 10, guidance=guidance)
        expected = steps_of_mag(ratios, 0.12, begins)
        assert [step for step, count in enumerate(steps) if count] == expected
        assert 3 < len(expected) < 10


def test_a_table_is_stretched_to_other_numbers_of_steps(new_pipeline: NewPipeline) -> None:
    pipeline = new_pipeline(AccelerationOptions(step_cache=StepCache("mag", 0.1, (2.0, 2.0, 1.0, 1.0))))
    for num_steps, expected in ((4, [0, 1]), (8, [0, 1, 2, 3, 7]), (4, [0, 1])):
        steps = computed(pipeline, num_steps, guidance=Guidance("chained", 1, 1))
        assert [step for step, count in enumerate(steps) if count] == expected


def test_a_table_of_any_length_is_kept_as_it_is(new_pipeline: NewPipeline) -> None:
    ratios = torch.rand(40, generator=torch.Generator().manual_seed(6)).tolist()
    pipeline = new_pipeline(AccelerationOptions(step_cache=StepCache("mag", 0.1, tuple(ratios))))
    assert pipeline.transformer._cache_config.mag_ratios.tolist() == pytest.approx(ratios)


def test_calibration_measures_the_residuals(new_pipeline: NewPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = new_pipeline(AccelerationOptions(step_cache=StepCache("calibrate", 0.0)),
                            reference_attention="one_way")
    seen: list[list[torch.Tensor]] = [[], []]

    def note(_: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if args[6].keep is None:
            seen[0].append(args[0])

    def note_last(_: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if args[6].keep is None:
            seen[1].append(output)

    pipeline.transformer.blocks[0].register_forward_hook(note)
    pipeline.transformer.blocks[-1].register_forward_hook(note_last)
    made = latents_of(pipeline, BOARD, num_inference_steps=4)
    assert torch.equal(made, latents_of(new_pipeline(reference_attention="one_way"), BOARD, num_inference_steps=4))
    sizes = [(after - before).norm(dim=-1) for before, after in zip(*seen, strict=True)]
    expected = [1.0, *((now / then).mean().item() for then, now in pairwise(sizes))]
    assert calibrated(pipeline) == pytest.approx(expected, rel=1e-4)
    assert not capsys.readouterr().out
    StepCache("mag", 0.06, calibrated(pipeline))
