"""From storyboards to videos with tiny random models: seeds, batches, guidance, outputs, files and adapters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint import media
from alchemint.diffusion.flow import sampling_sigmas
from alchemint.diffusion.guidance import Guidance
from alchemint.model_folder import read_defaults, read_guidance
from alchemint.pipeline import AlchemintPipeline, AlchemintPipelineOutput
from alchemint.storyboard import Event, Storyboard, StoryboardError, Subject

NewPipeline = Callable[..., AlchemintPipeline]

SHAPE = (4, 3, 4, 4)
"""Latents of 9 frames of 32 x 32 pixels."""


@pytest.fixture(scope="module")
def new_pipeline(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
    new_transformer: Callable[..., Any]
) -> NewPipeline:
    """A function that builds a pipeline, always with the same weights; options are the transformer's."""

    def build(**options: Any) -> AlchemintPipeline:
        pipeline = AlchemintPipeline(
            tokenizer, text_encoder, vae, new_transformer(**options), FlowMatchEulerDiscreteScheduler(shift=5.66),
            width=32, height=32, num_frames=9, fps=8.0, max_prompt_tokens=12, max_event_tokens=6)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


@pytest.fixture(scope="module")
def pipeline(new_pipeline: NewPipeline) -> AlchemintPipeline:
    return new_pipeline()


def picture(number: int) -> Image.Image:
    """A picture of coloured noise on a transparent ground."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 16, 4), np.uint8)
    pixels[:4, :, 3] = 0
    return Image.fromarray(pixels)


def subject(number: int, *appears: tuple[float, float], views: int = 1) -> Subject:
    word = ("fox", "duck", "robot")[number]
    return Subject(name=word, word=word, images=[picture(10 * number + view) for view in range(views)],
                   appears=appears or [(0.25, 0.75)])


def new_board(*subjects: Subject, **values: Any) -> Storyboard:
    return Storyboard(**{"prompt": "a fox, a duck and a robot", "seed": 3, "subjects": subjects, **values})


EARLY, LATE = Event(during=(0.0, 0.5), text="the fox trots"), Event(during=(0.5, 1.0), text="a balloon drifts")

BOARDS = {
    "nobody": new_board(),
    "one subject": new_board(subject(0), seed=4),
    "another": new_board(subject(1, (0.0, 1.0)), prompt="a duck waits", negative_prompt="a balloon", seed=5),
    "two views": new_board(subject(0, views=2), seed=6),
    "two subjects": new_board(subject(0), subject(2, (0.5, 1.0)), seed=7),
    "two stays": new_board(subject(1, (0.0, 0.25), (0.75, 1.0)), seed=8),
    "events": new_board(subject(0), events=[EARLY, LATE], seed=9),
    "one event": new_board(subject(1), events=[LATE], seed=10),
    "events alone": new_board(events=[EARLY], seed=11),
}


def frames_of(pipeline: AlchemintPipeline, boards: Storyboard | list[Storyboard], **options: Any) -> Any:
    (frames,) = pipeline(boards, return_dict=False, **{"num_inference_steps": 3, **options})
    return frames


def latents_of(pipeline: AlchemintPipeline, boards: Storyboard | list[Storyboard], **options: Any) -> torch.Tensor:
    return frames_of(pipeline, boards, output_type="latent", **options)


@contextmanager
def counted(pipeline: AlchemintPipeline) -> Iterator[list[int]]:
    """Note the batch size of every evaluation of the transformer."""
    sizes: list[int] = []
    hook = pipeline.transformer.register_forward_hook(lambda _module, args, _output: sizes.append(len(args[0])))
    try:
        yield sizes
    finally:
        hook.remove()


# Seeds and noise


def test_a_seed_makes_one_video(pipeline: AlchemintPipeline) -> None:
    board = BOARDS["events"]
    assert torch.equal(latents_of(pipeline, board), latents_of(pipeline, board))
    other = board.model_copy(update={"seed": 99})
    assert not torch.allclose(latents_of(pipeline, board), latents_of(pipeline, other), atol=1e-2)
    unseeded = board.model_copy(update={"seed": None})
    assert not torch.allclose(latents_of(pipeline, unseeded), latents_of(pipeline, unseeded), atol=1e-2)


def test_noise_may_come_from_generators_or_be_given(pipeline: AlchemintPipeline) -> None:
    boards = [BOARDS["one subject"], BOARDS["another"]]
    expected = latents_of(pipeline, boards)
    generators = [torch.Generator().manual_seed(board.seed or 0) for board in boards]
    assert torch.equal(latents_of(pipeline, boards, generator=generators), expected)
    noise = torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(board.seed or 0))
                         for board in boards])
    assert torch.equal(latents_of(pipeline, boards, latents=noise), expected)
    one = latents_of(pipeline, boards, generator=torch.Generator().manual_seed(1))
    both = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, latents_of(pipeline, boards, latents=both))


# Batches


@pytest.mark.parametrize("names", [
    ["one subject", "another"], ["events", "one event"], ["two views", "two subjects", "two stays"], list(BOARDS)],
    ids=["subjects", "events", "tokens", "all"])
def test_a_batch_is_its_storyboards_made_alone(pipeline: AlchemintPipeline, names: list[str]) -> None:
    together = latents_of(pipeline, [BOARDS[name] for name in names])
    for name, latents in zip(names, together, strict=True):
        assert torch.allclose(latents, latents_of(pipeline, BOARDS[name])[0], atol=1e-4), name


def test_storyboards_of_equal_shape_run_as_one(pipeline: AlchemintPipeline) -> None:
    with counted(pipeline) as sizes:
        latents_of(pipeline, list(BOARDS.values()), num_inference_steps=1, guidance=Guidance("chained", 1, 1))
    # nobody, events alone, one subject and another, the two with a subject and events, the three with two references
    assert sizes == [1, 1, 2, 2, 3]
    assert pipeline.num_timesteps == 5


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("guidance", [Guidance(), Guidance("joint", 2.0, 3.0, 1.5)], ids=lambda guidance: guidance.mode)
def test_branches_may_run_as_one_batch_or_one_by_one(
    pipeline: AlchemintPipeline, name: str, guidance: Guidance
) -> None:
    batched = latents_of(pipeline, BOARDS[name], guidance=guidance)
    assert torch.allclose(latents_of(pipeline, BOARDS[name], guidance=guidance, batch_branches=False), batched,
                          atol=1e-4)


# Guidance


@pytest.mark.parametrize(("guidance", "with_subject", "alone"), [
    (Guidance("chained", 3.0, 4.0), 3, 2), (Guidance("chained", 0.0, 4.0), 3, 2), (Guidance("chained", 3.0, 0.0), 2, 1),
    (Guidance("chained", 1.0, 1.0), 1, 1), (Guidance("joint", 3.0, 4.0, 2.0), 4, 2),
    (Guidance("joint", 3.0, 4.0, 0.0), 3, 2), (Guidance("joint", 3.0, 0.0, 0.0), 2, 1),
    (Guidance("joint", 0.0, 0.0, 1.0), 1, 1)])
def test_terms_of_scale_zero_cost_no_evaluation(
    pipeline: AlchemintPipeline, guidance: Guidance, with_subject: int, alone: int
) -> None:
    for name, expected in (("one subject", with_subject), ("nobody", alone)):
        with counted(pipeline) as sizes:
            latents_of(pipeline, BOARDS[name], guidance=guidance)
        assert sizes == [expected] * 3
        with counted(pipeline) as sizes:
            latents_of(pipeline, BOARDS[name], guidance=guidance, batch_branches=False)
        assert sizes == [1] * 3 * expected


def test_guidance_holds_in_its_interval_alone(pipeline: AlchemintPipeline) -> None:
    with counted(pipeline) as sizes:
        latents_of(pipeline, BOARDS["one subject"], num_inference_steps=8, guidance=Guidance(interval=(0.25, 0.75)))
    assert sizes == [1, 1, 3, 3, 3, 3, 1, 1]


def velocity(pipeline: AlchemintPipeline, board: Storyboard, guidance: Guidance) -> torch.Tensor:
    """What a single step from noise (sigma 1 to 0) subtracts."""
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    return noise - latents_of(pipeline, board, num_inference_steps=1, guidance=guidance, latents=noise)


def test_a_step_follows_the_printed_formulas(pipeline: AlchemintPipeline) -> None:
    board = BOARDS["two subjects"].model_copy(update={"negative_prompt": "a red balloon"})
    v00 = velocity(pipeline, board, Guidance("chained", 0, 0))
    vi0 = velocity(pipeline, board, Guidance("chained", 1, 0))
    v0t = velocity(pipeline, board, Guidance("joint", 0, 1, 0))
    vit = velocity(pipeline, board, Guidance("chained", 1, 1))
    chained = velocity(pipeline, board, Guidance("chained", 2.5, 4.0))
    assert torch.allclose(chained, v00 + 2.5 * (vi0 - v00) + 4.0 * (vit - vi0), atol=1e-4)
    joint = velocity(pipeline, board, Guidance("joint", 2.5, 4.0, 1.5))
    assert torch.allclose(joint, v00 + 2.5 * (vi0 - v00) + 4.0 * (v0t - v00) + 1.5 * (vit - v00), atol=1e-4)
    for first, second in ((v00, vi0), (vi0, vit), (v0t, vit)):
        assert (first - second).abs().max() > 1e-3


def test_null_conditions_forget_pictures_words_and_prompt_but_no_interval(pipeline: AlchemintPipeline) -> None:
    nothing = Guidance("chained", 0, 0)
    board = new_board(subject(0), events=[EARLY], negative_prompt="grey")
    fox = board.subjects[0]
    v00 = velocity(pipeline, board, nothing)
    others = board.model_copy(update={
        "prompt": "a green meadow", "subjects": (fox.model_copy(update={"images": (picture(9),), "word": "robot"}),),
        "events": (EARLY.model_copy(update={"text": "rain"}),)})
    assert torch.equal(velocity(pipeline, others, nothing), v00)
    assert not torch.allclose(velocity(pipeline, others, Guidance()), velocity(pipeline, board, Guidance()), atol=1e-3)
    for changed in (board.model_copy(update={"subjects": (fox.model_copy(update={"appears": ((0.0, 1.0),)}),)}),
                    board.model_copy(update={"negative_prompt": "a red balloon"})):
        assert not torch.allclose(velocity(pipeline, changed, nothing), v00, atol=1e-4)


# What it is without what is new


def test_without_subjects_it_is_diffusers_wan_pipeline(pipeline: AlchemintPipeline, wan_sizes: dict[str, Any]) -> None:
    class ShiftedOnce(FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(sigmas=sampling_sigmas(num_inference_steps), device=device)

    transformer = WanTransformer3DModel(**wan_sizes)
    state = pipeline.transformer.state_dict()
    transformer.load_state_dict({name: state[name] for name in transformer.state_dict()})
    wan = WanPipeline(pipeline.tokenizer, pipeline.text_encoder, pipeline.vae, ShiftedOnce(shift=5.66), transformer)
    wan.set_progress_bar_config(disable=True)
    board = new_board(negative_prompt="a grey duck")
    for output_type in ("latent", "np"):
        theirs = wan(board.prompt, board.negative_prompt, height=32, width=32, num_frames=9, num_inference_steps=4,
                     guidance_scale=3.5, max_sequence_length=12, output_type=output_type,
                     generator=torch.Generator().manual_seed(3)).frames
        ours = frames_of(pipeline, board, num_inference_steps=4, guidance=Guidance(text_scale=3.5),
                         output_type=output_type)
        assert np.allclose(np.asarray(ours), np.asarray(theirs), atol=1e-4)


# Outputs and callbacks


def test_outputs_are_one_video_in_four_forms(pipeline: AlchemintPipeline) -> None:
    boards = [BOARDS["one subject"], BOARDS["nobody"]]
    videos = {kind: frames_of(pipeline, boards, num_inference_steps=1, output_type=kind)
              for kind in ("np", "pt", "pil", "latent")}
    assert videos["latent"].shape == (2, *SHAPE)
    assert videos["np"].shape == (2, 9, 32, 32, 3)
    assert videos["pt"].shape == (2, 9, 3, 32, 32)
    assert 0 <= videos["np"].min() < videos["np"].max() <= 1
    assert np.array_equal(videos["np"], videos["pt"].permute(0, 1, 3, 4, 2).numpy())
    for row in range(2):
        for frame, image in enumerate(videos["pil"][row]):
            assert np.array_equal(np.asarray(image), (videos["np"][row, frame] * 255).round().astype(np.uint8))
    output = pipeline(boards, num_inference_steps=1)
    assert isinstance(output, AlchemintPipelineOutput)
    assert np.array_equal(np.asarray(output.frames), videos["np"])


def test_a_callback_sees_every_step_and_may_change_latents(pipeline: AlchemintPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def halve(pipe: AlchemintPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert pipe is pipeline
        seen.append((step, float(timestep)))
        return {"latents": tensors["latents"] / 2}

    def watch(*_: Any) -> dict[str, Any]:
        return {}

    board = BOARDS["one subject"]
    plain = latents_of(pipeline, board, num_inference_steps=2)
    assert torch.equal(latents_of(pipeline, board, num_inference_steps=2, callback_on_step_end=watch), plain)
    halved = latents_of(pipeline, board, num_inference_steps=2, callback_on_step_end=halve)
    assert [step for step, _ in seen] == [0, 1]
    assert [time for _, time in seen] == pytest.approx([1000.0, 1000 * 5.66 * 0.5 / (1 + 4.66 * 0.5)], rel=1e-4)
    assert not torch.allclose(halved, plain / 2, atol=1e-3)
    last = latents_of(pipeline, board, num_inference_steps=2, callback_on_step_end=lambda pipe, step, *rest: (
        halve(pipe, step, *rest) if step == 1 else {}))
    assert torch.allclose(last, plain / 2, atol=1e-6)


def test_a_callback_may_interrupt(pipeline: AlchemintPipeline) -> None:
    kept: list[torch.Tensor] = []

    def stop(pipe: AlchemintPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        kept.append(tensors["latents"])
        pipe._interrupt = step == 1
        return {}

    stopped = latents_of(pipeline, BOARDS["one subject"], num_inference_steps=6, callback_on_step_end=stop)
    assert len(kept) == 2
    assert torch.equal(stopped, kept[-1])
    assert torch.equal(latents_of(pipeline, BOARDS["nobody"]), latents_of(pipeline, BOARDS["nobody"]))
    assert not pipeline.interrupt


def test_a_callback_that_asks_sees_what_each_step_foretells(pipeline: AlchemintPipeline) -> None:
    """Euler's steps lie on a line from noise to the clean latents: where the next two meet it at noise level 0."""
    given: list[dict[str, torch.Tensor]] = []

    def watch(pipe: AlchemintPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        given.append(tensors)
        return {}

    def run(**options: Any) -> torch.Tensor:
        given.clear()
        return latents_of(pipeline, BOARDS["one subject"], num_inference_steps=4, callback_on_step_end=watch, **options)

    plain = run()
    assert all(list(tensors) == ["latents"] for tensors in given)
    asked = {"callback_on_step_end_tensor_inputs": ["latents", "denoised"]}
    assert torch.equal(run(**asked), plain)
    sigmas = [5.66 * u / (1 + 4.66 * u) for u in (1, 0.75, 0.5, 0.25, 0)]
    for before, after, *noise in zip(given, given[1:], sigmas[1:], sigmas[2:], strict=False):
        velocity = (before["latents"] - after["latents"]) / (noise[0] - noise[1])
        assert torch.allclose(after["denoised"], after["latents"] - noise[1] * velocity, atol=1e-4)
    assert torch.equal(given[-1]["denoised"], plain)
    assert not torch.allclose(given[0]["denoised"], plain, atol=1e-2)

    known = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    run(**asked, known_latents=known)
    assert all(torch.equal(tensors["denoised"][:, :, :1], known) for tensors in given)


# Files, precision, adapters, caches


def test_it_comes_back_from_disk(pipeline: AlchemintPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = AlchemintPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert read_defaults(tmp_path)[0] == loaded.defaults == pipeline.defaults
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    for name in ("events", "two subjects"):
        assert torch.allclose(latents_of(loaded, BOARDS[name]), latents_of(pipeline, BOARDS[name]), atol=1e-4)


def test_guidance_is_the_models_own_unless_told_otherwise(new_pipeline: NewPipeline, tmp_path: Path) -> None:
    board = BOARDS["two subjects"]
    pipeline = new_pipeline()
    by_default, weaker = latents_of(pipeline, board), latents_of(pipeline, board, guidance=Guidance(text_scale=2.0))
    assert not torch.allclose(by_default, weaker)
    pipeline.register_to_config(guidance={"text_scale": 2.0})
    pipeline.save_pretrained(tmp_path)
    assert read_guidance(tmp_path) == {"text_scale": 2.0}
    loaded = AlchemintPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(latents_of(loaded, board), weaker, atol=1e-4)
    assert loaded.guidance == Guidance(text_scale=2.0)
    assert torch.allclose(latents_of(loaded, board, guidance=Guidance()), by_default, atol=1e-4)


def test_references_fill_the_share_of_their_canvas_that_the_model_was_trained_with(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    board = new_board(subject(0)).resolve(new_pipeline().defaults)
    latents = []
    for share in (0.8, 0.5):
        pipeline = new_pipeline()
        pipeline.register_to_config(canvas_share=share)
        pipeline.save_pretrained(tmp_path / str(share))
        loaded = AlchemintPipeline.from_pretrained(tmp_path / str(share))
        assert loaded.config.canvas_share == share
        references = loaded._references([board])
        assert references is not None
        latents.append(references.latents[0, 0])
        canvas = media.reference_canvas(picture(0), 32, 32, share)
        pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None, :, None] / 127.5 - 1
        expected = loaded.vae.encode(pixels).latent_dist.mode()[0, :, 0]
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (
            loaded.vae.config.latents_mean, loaded.vae.config.latents_std))
        torch.testing.assert_close(latents[-1], (expected - mean) / std, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(*latents, atol=1e-2)


def test_half_precision_is_near_full_precision(pipeline: AlchemintPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    half = AlchemintPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.dtype == half.vae.dtype == half.text_encoder.dtype == torch.bfloat16
    board = BOARDS["events"]
    exact, rounded = (latents_of(pipe, board) for pipe in (pipeline, half))
    assert rounded.dtype == torch.float32
    assert (rounded - exact).std() < 0.1 * exact.std()
    assert frames_of(half, board).dtype == np.float32


def test_a_lora_comes_back_from_disk(new_pipeline: NewPipeline, tmp_path: Path) -> None:
    board = BOARDS["one subject"]
    tuned, fresh = new_pipeline(), new_pipeline()
    plain = latents_of(fresh, board)
    tuned.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"],
                                             init_lora_weights=False))
    adapted = latents_of(tuned, board)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    AlchemintPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(tuned.transformer))
    fresh.load_lora_weights(tmp_path)
    assert torch.allclose(latents_of(fresh, board), adapted, atol=1e-5)
    assert torch.allclose(latents_of(fresh, board, attention_kwargs={"scale": 0.0}), plain, atol=1e-5)
    fresh.unload_lora_weights()
    assert torch.allclose(latents_of(fresh, board), plain, atol=1e-6)


@pytest.mark.parametrize("batch_branches", [True, False])
def test_a_step_cache_that_never_skips_changes_nothing(
    new_pipeline: NewPipeline, pipeline: AlchemintPipeline, batch_branches: bool
) -> None:
    """Although the number of branches changes on the way, and the length of the sequence from batch to batch."""
    cached = new_pipeline()
    cached.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    options = {"guidance": Guidance(interval=(0.0, 0.5)), "batch_branches": batch_branches, "num_inference_steps": 4}
    boards = [BOARDS["nobody"], BOARDS["two subjects"], BOARDS["events"]]
    for _ in range(2):
        assert torch.allclose(latents_of(cached, boards, **options), latents_of(pipeline, boards, **options), atol=1e-4)


def test_a_step_cache_keeps_branches_apart(new_pipeline: NewPipeline) -> None:
    """A cache that always skips repeats each branch's first residual; branches in one batch or apart agree on it."""
    cached = new_pipeline()
    cached.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    batched, apart = (latents_of(cached, BOARDS["two subjects"], batch_branches=way) for way in (True, False))
    assert torch.allclose(batched, apart, atol=1e-4)


# Faults


@pytest.mark.parametrize(("boards", "options", "message"), [
    ([], {}, "no storyboard in the list"),
    ([new_board(), new_board(width=48)], {}, r"must agree .* 32 x 32 x 9 frames, 48 x 32 x 9 frames; make a call"),
    (new_board(), {"num_inference_steps": 0}, "num_inference_steps is 0; use at least 1"),
    (new_board(), {"output_type": "gif"}, 'output_type "gif" is unknown; use one of np, pt, pil, latent'),
    (new_board(), {"latents": torch.zeros(1, 4, 3, 4, 5)}, r"\(1, 4, 3, 4, 5\), but these storyboards need "
                                                           r"\(1, 4, 3, 4, 4\)"),
    ([new_board()] * 2, {"generator": [torch.Generator()]}, "1 generators for 2 storyboards"),
    (new_board(), {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]},
     r"\['prompt_embeds'\]; allowed are \['latents', 'denoised'\]"),
])
def test_wrong_arguments_are_named(
    pipeline: AlchemintPipeline, boards: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(boards, **{"num_inference_steps": 1, "output_type": "latent", **options})


def test_what_the_model_cannot_make_is_named(new_pipeline: NewPipeline, pipeline: AlchemintPipeline) -> None:
    overlapping = new_board(events=[EARLY, Event(during=(0.25, 1.0), text="rain")])
    with pytest.raises(StoryboardError, match="overlap"):
        pipeline(overlapping)
    with pytest.raises(StoryboardError, match="width 40"):
        pipeline(new_board(width=40))
    with pytest.raises(StoryboardError, match="events"):
        new_pipeline(event_encoding=None)(new_board(events=[EARLY]))
    assert latents_of(new_pipeline(event_encoding="tie"), overlapping).shape == (1, *SHAPE)
