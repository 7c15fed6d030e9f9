"""Pipelines of plain Wans: the same as diffusers' own, from either layout, with one warning and clear faults."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from alchemint.diffusion.guidance import Guidance
from alchemint.model.conditions import References
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Storyboard, Subject

FolderOf = Callable[..., Path]

GEOMETRIES = ["tiny", "tiny-14b", "tiny-5b", "tiny-a14b"]
COMPONENTS = ["transformer", "transformer_2", "vae", "text_encoder"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is warned of by this package, diffusers and transformers."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("alchemint", "diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_of(pipeline: AlchemintPipeline, component: str) -> dict[str, torch.Tensor]:
    """The weights of a component, without what is drawn at random."""
    model = getattr(pipeline, component)
    new = tuple(f"{name}." for name in model.new_module_names()) if component.startswith("transformer") else ()
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(new or "-")}


def assert_same_weights(first: AlchemintPipeline, second: AlchemintPipeline) -> None:
    for component in COMPONENTS:
        assert (getattr(first, component) is None) == (getattr(second, component) is None)
        if getattr(first, component) is not None:
            ours, theirs = weights_of(first, component), weights_of(second, component)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype
                       for name, tensor in ours.items())


# The same as Wan


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.no_grad()
def test_every_transformer_is_diffusers_own(folder_of: FolderOf, geometry: str) -> None:
    folder = folder_of(geometry)
    for name, ours in zip(("transformer", "transformer_2"), AlchemintPipeline.from_wan(folder).transformers,
                          strict=False):
        wan = WanTransformer3DModel.from_pretrained(folder, subfolder=name)
        inputs = {"hidden_states": random(2, wan.config.in_channels, 3, 4, 6), "timestep": torch.tensor([990.0, 40.0]),
                  "encoder_hidden_states": random(2, 9, wan.config.text_dim, seed=1)}
        if geometry == "tiny-5b":
            inputs["timestep"] = inputs["timestep"].view(2, 1).repeat(1, 3 * 2 * 3)
            inputs["timestep"][:, :6] = 0
        expected = wan(**inputs).sample
        assert torch.allclose(ours(**inputs).sample, expected, atol=1e-5, rtol=0)
        assert expected.std() > 0.1


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.no_grad()
def test_a_step_without_subjects_is_wans_two_passes(folder_of: FolderOf, geometry: str, layout: str) -> None:
    ours = AlchemintPipeline.from_wan(folder_of(geometry, layout=layout), shift=3.0)
    wan = WanPipeline.from_pretrained(folder_of(geometry))
    ours.set_progress_bar_config(disable=True)
    board = Storyboard(prompt="A red balloon waits.", negative_prompt="at dusk", width=64, height=32, duration=4 / 16,
                       fps=16)
    size = (32 // 16, 64 // 16) if geometry == "tiny-5b" else (32 // 8, 64 // 8)
    noise = random(1, wan.transformer.config.in_channels, 2, *size)
    seen = [noise]

    def note(_: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(tensors["latents"].clone())
        return {}

    ours(board, num_inference_steps=3, guidance=Guidance(text_scale=5.0), latents=noise, output_type="latent",
         callback_on_step_end=note)
    sigmas = [3 * u / (1 + 2 * u) for u in (1, 2 / 3, 1 / 3)] + [0.0]
    texts = wan.encode_prompt(board.prompt, board.negative_prompt, max_sequence_length=512)
    for number in range(3):
        timestep = torch.tensor([1000 * sigmas[number]])
        is_low = wan.transformer_2 is not None and float(timestep) < 875
        model = wan.transformer_2 if is_low else wan.transformer
        if geometry == "tiny-5b":
            timestep = timestep.view(1, 1).repeat(1, 2 * size[0] // 2 * size[1] // 2)
        with_text, without = (model(seen[number], timestep, text).sample for text in texts)
        velocity = (seen[number + 1] - seen[number]) / (sigmas[number + 1] - sigmas[number])
        assert torch.allclose(velocity, without + 5 * (with_text - without), atol=1e-4)
        assert not torch.allclose(with_text, without, atol=1e-3)
    assert not wan.transformer_2 or 1000 * sigmas[2] < 875 <= 1000 * sigmas[0]


# Layouts and files


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_either_layout_gives_the_same_pipeline(folder_of: FolderOf, geometry: str) -> None:
    pipelines = [AlchemintPipeline.from_wan(folder_of(geometry, layout=layout)) for layout in ("diffusers", "original")]
    assert_same_weights(*pipelines)
    for component in ("transformer", "transformer_2", "vae"):
        configs = [dict(part.config) for part in (getattr(pipeline, component) for pipeline in pipelines) if part]
        assert all({name: list(value) if isinstance(value, tuple) else value for name, value in config.items()
                    if name[0] != "_"} == {name: list(value) if isinstance(value, tuple) else value
                                           for name, value in configs[0].items() if name[0] != "_"}
                   for config in configs)
    texts = ["The old fisherman rests.", "at dusk"]
    ids = [pipeline.tokenizer(texts).input_ids for pipeline in pipelines]
    assert ids[0] == ids[1]
    assert pipelines[0].defaults == pipelines[1].defaults
    assert all(pipelines[0].config[name] == pipelines[1].config[name] for name in ("boundary_ratio", "guidance"))
    assert pipelines[0].config.expand_timesteps == pipelines[1].config.expand_timesteps == (geometry == "tiny-5b")


def test_shards_give_the_same_pipeline(
    make_wan: ModuleType, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AlchemintPipeline.from_wan(folder_of("tiny"))
    monkeypatch.setattr(make_wan, "SHARD_SIZE", "40KB")
    for layout in ("diffusers", "original"):
        make_wan.make("tiny", tmp_path / layout, dtype=torch.float32, layout=layout)
        assert len(list((tmp_path / layout).rglob("diffusion_pytorch_model-*.safetensors"))) > 2
        assert_same_weights(AlchemintPipeline.from_wan(tmp_path / layout), whole)


def test_the_vae_decodes_as_diffusers_own(folder_of: FolderOf) -> None:
    for geometry in ("tiny", "tiny-5b"):
        theirs = AutoencoderKLWan.from_pretrained(folder_of(geometry), subfolder="vae")
        ours = AlchemintPipeline.from_wan(folder_of(geometry, layout="original")).vae
        latents = random(1, ours.config.z_dim, 2, 2, 2)
        with torch.no_grad():
            assert torch.equal(ours.decode(latents).sample, theirs.decode(latents).sample)
        assert ours.config.latents_mean == theirs.config.latents_mean


@pytest.mark.parametrize("geometry", ["tiny-5b", "tiny-a14b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_loads_and_saves_as_the_same_bytes(
    folder_of: FolderOf, tmp_path: Path, geometry: str, dtype: torch.dtype
) -> None:
    AlchemintPipeline.from_wan(folder_of(geometry), dtype=dtype).save_pretrained(tmp_path / "first")
    kinds = {"default": dtype, "vae": torch.float32}
    AlchemintPipeline.from_pretrained(tmp_path / "first", dtype=kinds).save_pretrained(tmp_path / "second")
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.safetensors"))
    assert len(files) == (4 if geometry == "tiny-a14b" else 3)
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_dtypes_are_those_that_diffusers_and_transformers_load(
    folder_of: FolderOf, dtype: torch.dtype, stored: str
) -> None:
    ours = AlchemintPipeline.from_wan(folder_of("tiny", stored), dtype=dtype)
    wan = WanTransformer3DModel.from_pretrained(folder_of("tiny", stored), subfolder="transformer", dtype=dtype)
    encoder = UMT5EncoderModel.from_pretrained(folder_of("tiny", stored) / "text_encoder", dtype=dtype)
    for model, component in ((wan, "transformer"), (encoder, "text_encoder")):
        weights = weights_of(ours, component)
        assert all(torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype
                   for name, tensor in model.state_dict().items())
    assert {parameter.dtype for name in ours.transformer.new_module_names()
            for parameter in ours.transformer.get_submodule(name).parameters()} == {dtype}
    assert {parameter.dtype for parameter in ours.vae.parameters()} == {torch.float32}
    for module in (ours.transformer, ours.vae, ours.text_encoder):
        assert not module.training
        assert not any(tensor.is_meta or tensor.isnan().any() for tensor in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_transformer_alone_is_built_in_a_dtype(folder_of: FolderOf, name: str) -> None:
    torch.manual_seed(3)
    whole = AlchemintTransformer3DModel.from_wan(folder_of("tiny-a14b"), subfolder="transformer_2")
    torch.manual_seed(3)
    half = AlchemintTransformer3DModel.from_wan(folder_of("tiny-a14b"), subfolder="transformer_2",
                                                **{name: torch.bfloat16})
    assert half.dtype == torch.bfloat16
    assert all(torch.equal(tensor.to(half.state_dict()[key].dtype), half.state_dict()[key])
               for key, tensor in whole.state_dict().items())
    wan = WanTransformer3DModel.from_pretrained(folder_of("tiny-a14b"), subfolder="transformer_2")
    live = AlchemintTransformer3DModel.from_wan(wan, **{name: torch.bfloat16})
    assert live.dtype == torch.bfloat16
    assert wan.dtype == torch.float32


# A transformer and its base


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_transformer_alone_takes_the_rest_from_its_base(
    make_wan: ModuleType, folder_of: FolderOf, tmp_path: Path, layout: str
) -> None:
    make_wan.make("tiny", tmp_path / "other", dtype=torch.float32, seed=1, layout="original")
    base = folder_of("tiny", layout=layout)
    whole, other = AlchemintPipeline.from_wan(base), AlchemintPipeline.from_wan(tmp_path / "other")
    for alone in (tmp_path / "other", tmp_path / "other" / WEIGHTS):
        ours = AlchemintPipeline.from_wan(alone, base)
        assert all(torch.equal(tensor, weights_of(other, "transformer")[name])
                   for name, tensor in weights_of(ours, "transformer").items())
        assert all(torch.equal(tensor, weights_of(whole, part)[name]) for part in ("vae", "text_encoder")
                   for name, tensor in weights_of(ours, part).items())
        assert not torch.equal(ours.transformer.proj_out.weight, whole.transformer.proj_out.weight)


def phantom_file(folder_of: FolderOf, folder: Path) -> Path:
    """A transformer as Phantom's are published: in one .pth, here with a prefix."""
    weights = load_file(folder_of("tiny", layout="original") / WEIGHTS)
    torch.save({f"model.{name}": tensor for name, tensor in weights.items()}, folder / "Phantom-Wan-tiny.pth")
    return folder / "Phantom-Wan-tiny.pth"


@torch.no_grad()
def test_phantoms_references_are_frames_after_the_videos(folder_of: FolderOf, tmp_path: Path) -> None:
    pipeline = AlchemintPipeline.from_wan(phantom_file(folder_of, tmp_path), folder_of("tiny"))
    assert pipeline.config.guidance == {"image_scale": 5.0, "text_scale": 7.5}
    wan = WanTransformer3DModel.from_pretrained(folder_of("tiny"), subfolder="transformer")
    video, images, text = random(1, 16, 3, 4, 6), random(1, 2, 16, 4, 6, seed=1), random(1, 9, 32, seed=2)
    references = References(images, torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]), torch.tensor([[0, 1]]),
                            torch.zeros(1, 2, 0, 32), torch.zeros(1, 2, 0, dtype=torch.bool))
    timestep = torch.tensor([700.0])
    together = wan(torch.cat([video, images.transpose(1, 2)], dim=2), timestep, text).sample[:, :, :3]
    assert torch.allclose(pipeline.transformer(video, timestep, text, references).sample, together, atol=1e-5)
    assert not torch.allclose(wan(video, timestep, text).sample, together, atol=1e-2)


def test_phantom_makes_a_video_with_a_subject(folder_of: FolderOf, tmp_path: Path) -> None:
    pipeline = AlchemintPipeline.from_wan(phantom_file(folder_of, tmp_path), folder_of("tiny"))
    pipeline.set_progress_bar_config(disable=True)
    subject = Subject(name="dog", word="dog", images=[Image.new("RGB", (16, 16), "red")], appears=[(0.0, 0.25)])
    board = Storyboard(prompt="A brown dog rests.", width=64, height=32, duration=0.25, fps=16, seed=1,
                       subjects=[subject])
    latents = pipeline(board, num_inference_steps=1, output_type="latent").frames
    alone = pipeline(board.model_copy(update={"subjects": ()}), num_inference_steps=1, output_type="latent").frames
    assert latents.isfinite().all()
    assert not torch.allclose(latents, alone, atol=1e-3)


def test_a_trained_transformer_is_no_phantom_whatever_its_name(folder_of: FolderOf, tmp_path: Path) -> None:
    wan = WanTransformer3DModel.from_pretrained(folder_of("tiny"), subfolder="transformer")
    ours = AlchemintTransformer3DModel.from_wan(wan)
    ours.save_pretrained(tmp_path / "phantom-timed")
    pipeline = AlchemintPipeline.from_wan(tmp_path / "phantom-timed", folder_of("tiny"))
    assert torch.equal(pipeline.transformer.subject_index.weight, ours.subject_index.weight)
    assert pipeline.config.guidance == {}
    assert pipeline.scheduler.config.shift == 5.66


def test_a_transformer_beside_a_base_has_to_be_here(folder_of: FolderOf) -> None:
    with pytest.raises(ValueError, match=r'"owner/Phantom-Wan" is no file or folder; .* download its file'):
        AlchemintPipeline.from_wan("owner/Phantom-Wan", folder_of("tiny"))


def test_a_trained_transformer_takes_the_rest_from_its_base(
    folder_of: FolderOf, tmp_path: Path, warnings: list[str]
) -> None:
    trained = AlchemintTransformer3DModel.from_wan(folder_of("tiny"), subfolder="transformer", num_word_tokens=3)
    trained.save_pretrained(tmp_path / "export" / "transformer")
    for alone in (tmp_path / "export", tmp_path / "export" / "transformer"):
        pipeline = AlchemintPipeline.from_wan(alone, folder_of("tiny"))
        assert pipeline.transformer.config.num_word_tokens == 3
        assert all(torch.equal(tensor, trained.state_dict()[name])
                   for name, tensor in pipeline.transformer.state_dict().items())
    assert warnings == []
    with pytest.raises(ValueError, match="is a trained transformer, whose num_word_tokens is fixed"):
        AlchemintPipeline.from_wan(tmp_path / "export", folder_of("tiny"), num_word_tokens=4)


# Settings and the warning


@pytest.mark.parametrize(("geometry", "layout", "shift", "told"), [
    ("tiny", "diffusers", 3.0, "shift 3, its own"), ("tiny-5b", "diffusers", 5.0, "shift 5, its own"),
    ("tiny", "original", 5.66, "shift 5.66."), ("tiny-a14b", "original", 12.0, "shift 12.")])
def test_a_plain_wan_warns_once_and_tells_its_shift(
    folder_of: FolderOf, warnings: list[str], geometry: str, layout: str, shift: float, told: str
) -> None:
    pipeline = AlchemintPipeline.from_wan(folder_of(geometry, layout=layout))
    assert pipeline.scheduler.config.shift == shift
    (message,) = warnings
    assert all(part in message for part in (str(folder_of(geometry, layout=layout)), "untrained", "alchemint train",
                                            told))
    assert len(message.splitlines()) == 1
    assert AlchemintPipeline.from_wan(folder_of(geometry, layout=layout), shift=7.0).scheduler.config.shift == 7


def test_each_expert_has_new_modules_of_its_own_and_options_reach_both(folder_of: FolderOf) -> None:
    pipeline = AlchemintPipeline.from_wan(folder_of("tiny-a14b"), interval_encoding="tie", event_encoding=None)
    assert pipeline.config.boundary_ratio == 0.875
    first, second = pipeline.transformers
    assert first.config.interval_encoding == second.config.interval_encoding == "tie"
    assert first.config.event_encoding is second.config.event_encoding is None
    assert not torch.equal(first.subject_index.weight, second.subject_index.weight)
    assert not torch.equal(first.proj_out.weight, second.proj_out.weight)


def test_adapters_in_one_file_are_no_transformer(folder_of: FolderOf, tmp_path: Path) -> None:
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="holds adapters"):
        AlchemintPipeline.from_wan(tmp_path / "lora.safetensors", folder_of("tiny"))
