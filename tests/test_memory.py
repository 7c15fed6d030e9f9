"""Options that save memory: what each does to a pipeline of small random models, and what can't work together."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from diffusers.hooks.group_offloading import _get_group_onload_device
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint import memory
from alchemint.acceleration import AccelerationOptions
from alchemint.memory import KEPT, PACKAGES, MemoryOptions, check, fit, loading_arguments
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Event, Storyboard
from tests.gguf_files import is_kept, write_gguf

FLOAT8 = torch.float8_e4m3fn
BOARD = Storyboard(prompt="a fox, a duck and a robot", seed=3, num_frames=9,
                   events=[Event(during=(0.0, 0.5), text="the fox trots")])


@pytest.fixture(scope="module")
def folder(vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
           new_transformer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with two experts, wide enough for GGUF's groups of 32 numbers."""
    sizes = {"attention_head_dim": 32, "ffn_dim": 64}
    root = tmp_path_factory.mktemp("pipeline")
    AlchemintPipeline(
        tokenizer, text_encoder, vae, new_transformer(**sizes), FlowMatchEulerDiscreteScheduler(shift=5.66),
        transformer_2=new_transformer(1, **sizes), boundary_ratio=0.7, width=32, height=32, num_frames=9, fps=8.0,
        max_prompt_tokens=12, max_event_tokens=6).save_pretrained(root)
    return root


def load(folder: Path, options: MemoryOptions, dtype: torch.dtype = torch.float32) -> AlchemintPipeline:
    pipeline = AlchemintPipeline.from_pretrained(
        folder, dtype={"default": dtype, "vae": torch.float32}, **loading_arguments(options, folder, dtype))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents_of(pipeline: AlchemintPipeline, steps: int = 3) -> torch.Tensor:
    video = pipeline(BOARD, num_inference_steps=steps, output_type="latent").frames
    assert isinstance(video, torch.Tensor)
    return video


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


@pytest.fixture(scope="module")
def plain(folder: Path) -> torch.Tensor:
    """What the pipeline makes without any saving."""
    return latents_of(load(folder, MemoryOptions()))


# What fit does


def test_high_changes_nothing(folder: Path, plain: torch.Tensor) -> None:
    pipeline = load(folder, MemoryOptions())
    fit(pipeline, MemoryOptions(), "cpu")
    assert torch.equal(latents_of(pipeline), plain)
    assert not pipeline.vae.use_tiling


def test_low_stores_both_experts_blocks_in_float8_and_offloads_them(folder: Path, plain: torch.Tensor) -> None:
    pipeline = load(folder, MemoryOptions("low"))
    originals = [{name: weights.clone() for name, weights in model.named_parameters()}
                 for model in pipeline.transformers]
    fit(pipeline, MemoryOptions("low"), "cpu")
    assert len(pipeline.transformers) == 2
    for model, before in zip(pipeline.transformers, originals, strict=True):
        stored = {name for name, weights in model.named_parameters() if weights.dtype == FLOAT8}
        assert stored == {f"blocks.{number}.{layer}.{kind}" for number in range(2) for kind in ("weight", "bias")
                          for layer in (*(f"{attn}.{to}" for attn in ("attn1", "attn2")
                                          for to in ("to_q", "to_k", "to_v", "to_out.0")),
                                        "ffn.net.0.proj", "ffn.net.2")}
        for name, weights in model.named_parameters():
            assert name in stored or torch.equal(weights, before[name]), name
        assert _get_group_onload_device(model) == torch.device("cpu")
    assert _get_group_onload_device(pipeline.text_encoder) == torch.device("cpu")
    assert pipeline.vae.use_tiling
    assert pipeline.vae.use_slicing
    video = latents_of(pipeline)
    assert 0 < distance(video, plain) < 0.2

    cast = load(folder, MemoryOptions())
    for model in cast.transformers:
        for name, weights in model.named_parameters():
            if name in stored:
                weights.data = weights.data.to(FLOAT8).float()
    assert torch.equal(video, latents_of(cast)), "nothing but the stored weights' precision may differ"


def test_low_makes_frames(folder: Path) -> None:
    pipeline = load(folder, MemoryOptions("low"), torch.bfloat16)
    fit(pipeline, MemoryOptions("low"), "cpu")
    frames = pipeline(BOARD, num_inference_steps=2).frames
    assert frames.shape == (1, 9, 32, 32, 3)
    assert pipeline.transformer.dtype == torch.bfloat16


def test_balanced_offloads_by_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(AlchemintPipeline, "enable_model_cpu_offload",
                        lambda self, **options: given.update(options, first=self.model_cpu_offload_seq.split("->")[0]))
    pipeline = load(folder, MemoryOptions("balanced"))
    fit(pipeline, MemoryOptions("balanced"), "cuda")
    assert given == {"device": torch.device("cuda"), "first": "text_encoder"}
    assert pipeline.vae.use_tiling


def test_texts_are_encoded_before_any_transformer_works(folder: Path) -> None:
    """Otherwise offloading would bring text encoder and transformers to the device by turns."""
    pipeline = load(folder, MemoryOptions())
    calls: list[str] = []
    for name in ("text_encoder", "transformer", "transformer_2"):
        getattr(pipeline, name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    pipeline([BOARD, BOARD.model_copy(update={"events": ()})], num_inference_steps=4, output_type="latent")
    assert set(calls) == {"text_encoder", "transformer", "transformer_2"}
    last = max(number for number, name in enumerate(calls) if name == "text_encoder")
    assert set(calls[:last]) == {"text_encoder"}


# Quantisation


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.1), ("fp8", 0.2)])
@pytest.mark.parametrize("choice", ["high", "low"])
def test_torchao_quantises_blocks_and_text_encoder(folder: Path, plain: torch.Tensor, kind: str, tolerance: float,
                                                   choice: str) -> None:
    utils = pytest.importorskip("torchao.utils")
    options = MemoryOptions(choice, kind)
    pipeline = load(folder, options)
    fit(pipeline, options, "cpu")
    for model in pipeline.transformers:
        for name, weights in model.named_parameters():
            quantised = isinstance(weights.data, utils.TorchAOBaseTensor)
            assert quantised == (weights.ndim == 2 and not is_kept(name)), name
            assert weights.dtype != FLOAT8
    assert isinstance(pipeline.text_encoder.encoder.block[0].layer[0].SelfAttention.q.weight.data,
                      utils.TorchAOBaseTensor)
    assert 0 < distance(latents_of(pipeline), plain) < tolerance


@pytest.fixture
def gguf_folder(folder: Path, tmp_path: Path) -> Path:
    """The same pipeline, its transformers' weights in GGUF files, blocks' matrices as Q8_0."""
    gguf = pytest.importorskip("gguf")
    root = shutil.copytree(folder, tmp_path / "gguf")
    for name in ("transformer", "transformer_2"):
        stored = root / name / "diffusion_pytorch_model.safetensors"
        write_gguf(gguf, root / name / "model.gguf", load_file(stored))
        stored.unlink()
    return root


@pytest.mark.parametrize("choice", ["high", "low"])
def test_weights_come_from_gguf_files(gguf_folder: Path, plain: torch.Tensor, choice: str) -> None:
    options = MemoryOptions(choice, "gguf")
    check(options, "cpu", "float32", gguf_folder)
    pipeline = load(gguf_folder, options)
    fit(pipeline, options, "cpu")
    for model in pipeline.transformers:
        assert {name for name, weights in model.named_parameters() if weights.dtype == torch.uint8} == {
            name for name, weights in model.named_parameters()
            if name.endswith("weight") and weights.ndim == 2 and not is_kept(name)}
    assert 0 < distance(latents_of(pipeline), plain) < 0.1


def test_a_gguf_file_of_a_plain_wan_is_refused(gguf_folder: Path, folder: Path) -> None:
    gguf = pytest.importorskip("gguf")
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    path = gguf_folder / "transformer" / "model.gguf"
    path.unlink()
    write_gguf(gguf, path, {name: tensor for name, tensor in weights.items()
                            if not any(new in name for new in ("subject_index", "word_tags", "event_attn"))})
    for refused in (lambda: check(MemoryOptions(quantize="gguf"), "cpu", "float32", gguf_folder),
                    lambda: load(gguf_folder, MemoryOptions(quantize="gguf"))):
        with pytest.raises(ValueError, match=r"model\.gguf lacks the modules that Wan does not have"):
            refused()
    path.write_bytes(b"not GGUF" * 99)
    with pytest.raises(ValueError, match=r"model\.gguf can't be read as GGUF"):
        check(MemoryOptions(quantize="gguf"), "cpu", "float32", gguf_folder)


# What can't work


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda _: object())


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(("options", "device", "dtype", "acceleration", "message"), [
    (("balanced", None), "cpu", "float32", None, "on a CPU use high or low"),
    (("high", "nf4"), "cpu", "float32", None, "nf4 needs a GPU"),
    (("high", "nf4"), "cuda", "float16", None, "computes in bfloat16"),
    (("high", "gguf"), "cuda", "bfloat16", None, "one .gguf file in .*transformer, but there is none"),
    (("low", None), "cuda", "bfloat16", AccelerationOptions(compile=True), "can't trace the casts"),
    (("high", "nf4"), "cuda", "bfloat16", AccelerationOptions(compile=True), "can't trace the layers"),
    (("balanced", None), "cuda", "bfloat16", AccelerationOptions(context_parallel=2), "each of the 2 processes"),
])
def test_what_cannot_work_is_told_before_anything_is_loaded(
        folder: Path, options: tuple[str, str | None], device: str, dtype: str,
        acceleration: AccelerationOptions | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(MemoryOptions(*options), device, dtype, folder, acceleration=acceleration)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(("options", "device", "acceleration"), [
    (("low", "int8"), "cuda", AccelerationOptions(compile=True)), (("balanced", "nf4"), "cuda", None),
    (("low", "fp8"), "cpu", None), (("high", "int8"), "cuda", AccelerationOptions(context_parallel=2)),
    (("balanced", None), "cuda", AccelerationOptions(compile=True)),
])
def test_what_can_work_is_let_through(folder: Path, options: tuple[str, str | None], device: str,
                                      acceleration: AccelerationOptions | None) -> None:
    check(MemoryOptions(*options), device, "bfloat16", folder, acceleration=acceleration)


@pytest.mark.usefixtures("all_installed")
def test_a_plain_wan_is_not_quantised(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"from_wan\(\.\.\.\)\.save_pretrained"):
        check(MemoryOptions(quantize="int8"), "cuda", "bfloat16", folder, is_pipeline=False)


@pytest.mark.parametrize(("kind", "package"), PACKAGES.items())
def test_a_package_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str,
                                            package: str) -> None:
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None if name == package else object())
    for refused in (lambda: check(MemoryOptions(quantize=kind), "cuda", "bfloat16", folder),
                    lambda: loading_arguments(MemoryOptions(quantize=kind), folder, torch.bfloat16)):
        with pytest.raises(ValueError, match=rf'pip install "alchemint\[{package}\]"'):
            refused()


def test_every_package_is_an_extra_of_ours() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package in PACKAGES.values():
        [requirement] = project["optional-dependencies"][package]
        assert requirement.startswith(f"{package}>=")


@pytest.mark.parametrize("options", [{"memory": "none"}, {"quantize": "int4"}])
def test_unknown_names_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is unknown; use one of"):
        MemoryOptions(**options)


def test_nf4_is_for_both_experts_with_what_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        monkeypatch.setattr(memory, "_check_package", lambda _: None)
        monkeypatch.setattr("diffusers.quantizers.quantization_config.BitsAndBytesConfig.post_init", lambda _: None)
        monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda _: None)
    given = loading_arguments(MemoryOptions(quantize="nf4"), folder, torch.bfloat16)
    mapping = given["quantization_config"].quant_mapping
    assert mapping.keys() == {"transformer", "transformer_2", "text_encoder"}
    assert mapping["transformer_2"].llm_int8_skip_modules == list(KEPT)
    assert {config.bnb_4bit_quant_type for config in mapping.values()} == {"nf4"}
