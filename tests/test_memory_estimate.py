"""Expected memory against the bytes of tensors that really live: on the CPU at small sizes, and at Wan's full sizes on
torch's meta device, which runs the real modules without numbers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from diffusers.hooks import group_offloading
from PIL import Image
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from alchemint import pipeline as pipeline_module
from alchemint.memory import KEPT, PACKAGES, MemoryOptions, fit, loading_arguments
from alchemint.memory_estimate import Configs, Work, expected_peak, read_configs
from alchemint.memory_estimate.configs import UMT5_XXL, WAN_21_VAE, WAN_22_VAE
from alchemint.memory_estimate.ledger import Ledger
from alchemint.memory_estimate.transformer_walk import Pass, TransformerWalk, WeightUse
from alchemint.memory_estimate.vae_walk import VaeWalk
from alchemint.memory_estimate.weights import (
    text_encoder_weights,
    transformer_weights,
    unpacking_bytes,
    vae_weights,
)
from alchemint.model.conditions import Events, References
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Event, Storyboard, Subject
from alchemint.wan.layout import NEW_OPTIONS
from tests.gguf_files import write_gguf
from tests.live_storages import LiveStorages, PretendedDevice

SMALL = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "text_dim": 128, "num_layers": 2}
WAN_13B = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 3}
WAN_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 2}
WAN_5B = {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 2, "in_channels": 48,
          "out_channels": 48}
FULL_LATENTS = (21, 60, 104)


def in_type(model: torch.nn.Module, dtype: torch.dtype) -> Any:
    """Cast as diffusers does while loading: some modules stay in float32."""
    for name, weights in model.named_parameters():
        if not any(kept in name.split(".") for kept in model._keep_in_fp32_modules):
            weights.data = weights.data.to(dtype)
    return model.eval()


def inputs(config: Any, latents: tuple[int, int, int], num_references: int, num_prompt_tokens: int,
           num_event_tokens: int = 0, batch: int = 1, dtype: torch.dtype = torch.float32, per_token: bool = False,
           device: str = "cpu") -> tuple[Any, ...]:
    """Return a transformer's inputs."""
    frames, height, width = latents
    channels, text_dim = config.in_channels, config.text_dim

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype, device=device)

    references = None if not num_references else References(
        new(batch, num_references, channels, height, width), new(batch, num_references, 2),
        new(batch, num_references, dtype=torch.long), new(batch, num_references, 8, text_dim, dtype=dtype),
        new(batch, num_references, 8, dtype=torch.bool))
    events = None if not num_event_tokens else Events(
        new(batch, 2, num_event_tokens // 2, text_dim, dtype=dtype),
        new(batch, 2, num_event_tokens // 2, dtype=torch.bool),
        torch.tensor([[[0.0, 1.0], [1.0, 2.0]]], device=device).expand(batch, -1, -1))
    timestep = new(batch, frames * height * width // 4) if per_token else new(batch)
    return (new(batch, channels, *latents, dtype=dtype), timestep, new(batch, num_prompt_tokens, text_dim, dtype=dtype),
            references, events)


def measured(run: Callable[[], Any], weights: list[torch.Tensor], device: str = "cpu") -> tuple[int, Any]:
    """Return the peak of what `run` has besides weights, and what it returns."""
    mode = PretendedDevice(weights)
    with torch.no_grad(), mode:
        out = run()
    return mode.peak(device) - sum(tensor.nbytes for tensor in weights), out


def walked(config: Any, dtype: torch.dtype, lengths: Pass, use: WeightUse | None = None) -> int:
    ledger = Ledger()
    TransformerWalk(ledger, config, dtype.itemsize, lengths, use).forward()
    return ledger.peak


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention on the meta device as fused kernels do it: without a matrix of all scores."""
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
               dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
               enable_gqa: bool = False) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)


@pytest.fixture
def offloads_to_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets weights go between the CPU and the meta device, which `Tensor.data =` refuses."""
    def swap(weights: torch.Tensor, source: torch.Tensor) -> None:
        torch.utils.swap_tensors(weights, torch.nn.Parameter(source.detach(), requires_grad=False))

    monkeypatch.setattr(torch, "meta", torch.cpu, raising=False)
    monkeypatch.setattr(group_offloading, "_is_torchao_tensor", lambda _: True)
    monkeypatch.setattr(group_offloading, "_swap_torchao_tensor", swap)


# Weights


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.1-14b", "wan2.2-5b", "tiny", "tiny-5b"])
def test_weights_are_counted_to_the_last(make_wan: ModuleType, name: str) -> None:
    geometry = make_wan.GEOMETRIES[name]
    with torch.device("meta"):
        transformer = AlchemintTransformer3DModel(**geometry.transformer)
        vae = AutoencoderKLWan(**geometry.vae)
    counted = transformer_weights(transformer.config)
    assert counted.count == sum(weights.numel() for weights in transformer.parameters())
    assert vae_weights(vae.config) == sum(weights.numel() for weights in vae.parameters())
    exact = sum(weights.numel() for name, weights in transformer.named_parameters()
                if any(kept in name.split(".") for kept in transformer._keep_in_fp32_modules))
    assert counted.num_blocks * counted.exact + counted.around_exact == exact


@pytest.mark.parametrize("sizes", [
    {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384},
    {"d_model": 32, "d_kv": 4, "d_ff": 48, "num_layers": 3, "num_heads": 2, "vocab_size": 99}])
def test_the_text_encoders_weights_are_counted_to_the_last(sizes: dict[str, int]) -> None:
    config = UMT5Config(**sizes, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    assert text_encoder_weights(config.to_dict()).count == sum(weights.numel() for weights in model.parameters())


def test_wans_own_configs_are_those_of_its_classes(make_wan: ModuleType) -> None:
    for name, expected in (("wan2.1-14b", WAN_21_VAE), ("wan2.2-5b", WAN_22_VAE)):
        with torch.device("meta"):
            config = AutoencoderKLWan(**make_wan.GEOMETRIES[name].vae).config
        assert {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
                if key in expected} == dict(expected)


# Activations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_references", "num_event_tokens", "per_token"), [
    (0, 0, False), (2, 0, False), (0, 64, False), (2, 64, False), (2, 0, True)])
def test_a_pass_of_the_transformer(dtype: torch.dtype, num_references: int, num_event_tokens: int,
                                   per_token: bool) -> None:
    model = in_type(AlchemintTransformer3DModel(**SMALL), dtype)
    given = inputs(model.config, (7, 16, 16), num_references, 48, num_event_tokens, 2, dtype, per_token)
    peak, _ = measured(lambda: model(*given), list(model.parameters()))
    expected = walked(model.config, dtype, Pass(2, (7, 8, 8), num_references, 48, num_event_tokens, per_token))
    assert expected == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [32, 64])
def test_references_that_are_blind_to_the_video(dtype: torch.dtype, head_dim: int) -> None:
    sizes = {**SMALL, "attention_head_dim": head_dim, "num_layers": 4, "reference_attention": "one_way"}
    model = in_type(AlchemintTransformer3DModel(**sizes), dtype)
    sample, timestep, prompt, references, _ = inputs(model.config, (5, 16, 16), 4, 48, dtype=dtype)
    weights = list(model.parameters())
    peak, _ = measured(lambda: model(sample, timestep, prompt, references), weights)
    assert walked(model.config, dtype, Pass(1, (5, 8, 8), 4, 48)) == pytest.approx(peak, rel=0.05)
    peak, encoded = measured(lambda: model.encode_references(sample, prompt, references), weights)
    assert walked(model.config, dtype, Pass(1, (5, 8, 8), 4, 48, encoding=True)) == pytest.approx(peak, rel=0.1)
    peak, _ = measured(lambda: model(sample, timestep, prompt, encoded), weights)
    assert walked(model.config, dtype, Pass(1, (5, 8, 8), 4, 48, encoded=True)) == pytest.approx(peak, rel=0.05)


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize(("sizes", "latents", "num_references", "per_token"), [
    (WAN_13B, FULL_LATENTS, 0, False), (WAN_13B, FULL_LATENTS, 2, False), (WAN_13B, (21, 90, 160), 3, False),
    (WAN_13B | {"reference_attention": "one_way"}, FULL_LATENTS, 2, False),
    (WAN_14B, FULL_LATENTS, 2, False), (WAN_5B, (31, 44, 80), 1, True)])
def test_a_pass_at_wans_full_size(sizes: dict[str, Any], latents: tuple[int, int, int], num_references: int,
                                  per_token: bool) -> None:
    with torch.device("meta"):
        model = in_type(AlchemintTransformer3DModel(**sizes), torch.bfloat16)
    given = inputs(model.config, latents, num_references, 512, 0, 2, torch.bfloat16, per_token, "meta")
    peak, _ = measured(lambda: model(*given), list(model.parameters()), "meta")
    grid = latents[0], latents[1] // 2, latents[2] // 2
    expected = walked(model.config, torch.bfloat16, Pass(2, grid, num_references, 512, per_token=per_token))
    assert expected == pytest.approx(peak, rel=0.02)


@pytest.mark.usefixtures("flash", "offloads_to_meta")
@pytest.mark.parametrize("casts", [True, False])
def test_blocks_come_to_the_device_one_after_the_other(casts: bool) -> None:
    sizes = {**SMALL, "num_layers": 6, "attention_head_dim": 128, "ffn_dim": 2048}
    model = in_type(AlchemintTransformer3DModel(**sizes), torch.bfloat16)
    if casts:
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16,
                                       skip_modules_pattern=KEPT)
    model.enable_group_offload(onload_device=torch.device("meta"), offload_type="block_level", num_blocks_per_group=1)
    given = inputs(model.config, (2, 16, 16), 1, 48, dtype=torch.bfloat16, device="meta")
    peak, _ = measured(lambda: model(*given), [], "meta")
    counted = transformer_weights(model.config)
    weights = counted.around_bytes(2) + counted.block_bytes(2, casts)
    activations = walked(model.config, torch.bfloat16, Pass(1, (2, 8, 8), 1, 48), WeightUse(1) if casts else None)
    assert weights > activations / 2, "both have to matter"
    assert weights + activations == pytest.approx(peak, rel=0.05)
    assert all(tensor.device.type == "cpu" for tensor in model.parameters())


def tensors_within(weights: torch.Tensor) -> list[torch.Tensor]:
    """Return what a quantised tensor is made of."""
    if type(weights) is torch.Tensor or not hasattr(weights, "__tensor_flatten__"):
        return [weights]
    return [getattr(weights, name) for name in weights.__tensor_flatten__()[0]]


@pytest.mark.parametrize("kind", ["int8", "fp8", "gguf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantised_weights_and_what_unpacks_them(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    package = pytest.importorskip(PACKAGES[kind])
    AlchemintTransformer3DModel(**SMALL | {"attention_head_dim": 128, "ffn_dim": 1536}).save_pretrained(
        tmp_path / "transformer")
    if kind == "gguf":
        stored = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
        write_gguf(package, tmp_path / "transformer" / "model.gguf", load_file(stored))
        model = loading_arguments(MemoryOptions(quantize=kind), tmp_path, dtype)["transformer"]
    else:
        config = loading_arguments(MemoryOptions(quantize=kind), tmp_path, dtype)["quantization_config"]
        model = AlchemintTransformer3DModel.from_pretrained(tmp_path / "transformer", dtype=dtype,
                                                            quantization_config=config.quant_mapping["transformer"])
    weights = [part for tensor in model.parameters() for part in tensors_within(tensor.data)]
    given = inputs(model.config, (2, 16, 16), 1, 48, dtype=dtype)
    peak, _ = measured(lambda: model(*given), weights)
    counted = transformer_weights(model.config)
    expected = counted.num_blocks * counted.block_bytes(dtype.itemsize, quantize=kind) + counted.around_bytes(
        dtype.itemsize)
    assert expected == pytest.approx(sum(tensor.nbytes for tensor in weights), rel=0.01)
    use = WeightUse(unpacking=unpacking_bytes(kind, dtype.itemsize))
    assert walked(model.config, dtype, Pass(1, (2, 8, 8), 1, 48), use) == pytest.approx(peak, rel=0.05)


def vae_of(**sizes: Any) -> AutoencoderKLWan:
    z_dim = sizes.get("z_dim", 16)
    return AutoencoderKLWan(**{key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()},
                            latents_mean=[0.0] * z_dim, latents_std=[1.0] * z_dim).eval()


VAES = {
    "2.1": {"base_dim": 8},
    "2.2": {"base_dim": 8, "decoder_base_dim": 12, "z_dim": 8, "is_residual": True, "in_channels": 12,
            "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16},
    "shallow": {"base_dim": 12, "z_dim": 24, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "in_channels": 12,
                "out_channels": 12, "patch_size": 2, "temperal_downsample": [True, True]},
}


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize(("num_latents", "height", "width"), [(1, 64, 64), (3, 64, 96)])
def test_the_vae_decodes_and_encodes(name: str, num_latents: int, height: int, width: int) -> None:
    vae = vae_of(**VAES[name])
    ratio = vae.config.scale_factor_spatial
    latents = torch.ones(1, vae.config.z_dim, num_latents, height // ratio, width // ratio)
    peak, _ = measured(lambda: vae.decode(latents).sample, [])
    ledger = Ledger()
    VaeWalk(ledger, vae.config, 4).decode(num_latents, height // ratio, width // ratio)
    assert ledger.peak == pytest.approx(peak, rel=0.02)
    images = torch.ones(2, 3, 1, height, width)
    peak, _ = measured(lambda: vae.encode(images).latent_dist.mode(), [])
    ledger = Ledger()
    VaeWalk(ledger, vae.config, 4, batch=2).encode(height, width)
    assert ledger.peak == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize("sizes", [WAN_21_VAE, WAN_22_VAE], ids=["2.1", "2.2"])
@pytest.mark.parametrize("tiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("flash")
def test_wans_own_vaes_at_full_size(sizes: dict[str, Any], tiled: bool) -> None:
    with torch.device("meta"):
        vae = vae_of(**sizes)
    vae.use_tiling = tiled
    ratio = vae.config.scale_factor_spatial
    size = (3, 448 // ratio, 480 // ratio)
    latents = torch.ones(1, vae.config.z_dim, *size, device="meta")
    peak, _ = measured(lambda: vae.decode(latents).sample, [], "meta")
    ledger = Ledger()
    VaeWalk(ledger, vae.config, 4).decode(*size, tiled=tiled)
    assert ledger.peak == pytest.approx(peak, rel=0.02)


# Whole calls


def picture_board(**values: Any) -> Storyboard:
    subjects = [Subject(name=word, word=word, images=[Image.new("RGB", (20, 16), "red")] * views,
                        appears=[(0.1, 0.9)]) for word, views in (("fox", 2), ("duck", 1))]
    return Storyboard(prompt="a fox and a duck", subjects=subjects, seed=1, **values)


@pytest.fixture(scope="module")
def new_folder(vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
               tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a pipeline of small random models; options are the transformer's."""
    def write(**options: Any) -> Path:
        transformer = AlchemintTransformer3DModel(
            **{**SMALL, "text_dim": text_encoder.config.d_model, "in_channels": 4, "out_channels": 4, **options})
        folder = tmp_path_factory.mktemp("pipeline")
        AlchemintPipeline(tokenizer, text_encoder, vae, transformer, FlowMatchEulerDiscreteScheduler(shift=5.66),
                          width=64, height=64, num_frames=9, fps=8.0, max_prompt_tokens=12,
                          max_event_tokens=6).save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def in_stages(monkeypatch: pytest.MonkeyPatch) -> Callable[[LiveStorages], None]:
    """A function that lets a mode know which stage a call of the pipeline is in."""
    def watch(mode: LiveStorages) -> None:
        steps, decode = pipeline_module.steps, pipeline_module.decode_video

        def watched_steps(*arguments: Any, **options: Any) -> Iterator[Any]:
            mode.stage = "denoising"
            yield from steps(*arguments, **options)

        def watched_decode(*arguments: Any) -> torch.Tensor:
            mode.stage = "decoding"
            return decode(*arguments)

        mode.stage = "encoding"
        monkeypatch.setattr(pipeline_module, "steps", watched_steps)
        monkeypatch.setattr(pipeline_module, "decode_video", watched_decode)

    return watch


@pytest.mark.parametrize(("memory", "dtype", "batched", "size", "options"), [
    ("high", "float32", True, (64, 64), {}),
    ("high", "float32", False, (64, 96), {}),
    ("high", "bfloat16", True, (96, 96), {}),
    ("high", "float32", True, (64, 64), {"reference_attention": "one_way"}),
    ("high", "float32", False, (64, 96), {"reference_attention": "one_way", "num_layers": 4}),
    ("low", "float32", True, (64, 64), {}),
    ("low", "float32", False, (64, 64), {"reference_attention": "one_way"}),
    pytest.param("low", "bfloat16", False, (288, 272), {"num_layers": 1}, marks=pytest.mark.slow),
])
def test_a_whole_call(new_folder: Callable[..., Path], in_stages: Callable[[LiveStorages], None], memory: str,
                      dtype: str, batched: bool, size: tuple[int, int], options: dict[str, Any]) -> None:
    folder = new_folder(**options)
    pipe = AlchemintPipeline.from_pretrained(
        folder, dtype={"default": getattr(torch, dtype), "vae": torch.float32})
    fit(pipe, MemoryOptions(memory), "cpu")
    pipe.set_progress_bar_config(disable=True)
    board = picture_board(height=size[0], width=size[1], events=[Event(during=(0.2, 0.8), text="a balloon")]).resolve(
        pipe.defaults)
    mode = LiveStorages(tensor for model in (pipe.transformer, pipe.text_encoder, pipe.vae)
                        for tensor in model.parameters())
    in_stages(mode)
    with mode:
        pipe(board, num_inference_steps=2, batch_branches=batched)
    peak = expected_peak(read_configs(folder), Work.of(board, 3, batched), MemoryOptions(memory), "cpu", dtype)
    for stage, expected in peak.stages.items():
        assert expected == pytest.approx(mode.peaks[stage]["cpu"], rel=0.1), stage
    assert peak.device_bytes == pytest.approx(mode.peak(), rel=0.1)
    assert mode.peaks[peak.stage]["cpu"] >= 0.9 * mode.peak()


def wan_configs(sizes: dict[str, Any], **options: Any) -> Configs:
    config = {**NEW_OPTIONS, "patch_size": (1, 2, 2), "in_channels": 16, "out_channels": 16, "text_dim": 4096,
              "freq_dim": 256, "cross_attn_norm": True, **sizes, **options}
    return Configs((config,), WAN_21_VAE, UMT5_XXL)


def test_every_saving_saves() -> None:
    configs, work = wan_configs(WAN_14B | {"num_layers": 40}), Work(832, 480, 81, 2, 1, 0, 3)

    def at(memory: str, quantize: str | None = None, batched: bool = True, device: str = "cuda") -> int:
        this = Work(832, 480, 81, 2, 1, 0, 3, batched)
        return expected_peak(configs, this, MemoryOptions(memory, quantize), device).device_bytes

    assert at("high") > at("balanced") > at("low") > at("low", batched=False)
    assert at("high") > at("high", "int8") > at("high", "nf4")
    high, low = (expected_peak(configs, work, MemoryOptions(memory)) for memory in ("high", "low"))
    assert low.stages["decoding"] < 0.2 * high.stages["decoding"]
    assert high.device_bytes == max(high.stages.values()) == high.stages[high.stage]
    weights = transformer_weights(configs.transformers[0])
    assert min(high.stages.values()) > 2 * weights.count + 2 * text_encoder_weights(UMT5_XXL).count


def test_it_is_told_at_once() -> None:
    configs = wan_configs(WAN_14B | {"num_layers": 40}, reference_attention="one_way")
    begun = time.perf_counter()
    expected_peak(configs, Work(1280, 720, 81, 4, 2, 3, 3), MemoryOptions("low"))
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("geometry", ["tiny", "tiny-5b", "tiny-a14b"])
def test_the_configs_of_a_plain_wan(folder_of: Callable[..., Path], geometry: str) -> None:
    configs = read_configs(folder_of(geometry))
    pipe = AlchemintPipeline.from_wan(folder_of(geometry))
    assert len(configs.transformers) == len(pipe.transformers)
    for config, model in zip(configs.transformers, pipe.transformers, strict=True):
        assert transformer_weights(config) == transformer_weights(model.config)
    assert vae_weights(configs.vae) == vae_weights(pipe.vae.config)
    assert text_encoder_weights(configs.text_encoder) == text_encoder_weights(pipe.text_encoder.config.to_dict())
    assert configs.expand_timesteps == pipe.config.expand_timesteps


def test_a_folder_without_configs_is_told(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "AlchemintPipeline"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json can't be read"):
        read_configs(tmp_path)


@pytest.mark.usefixtures("flash", "offloads_to_meta")
def test_the_text_encoders_layers_come_to_the_device_one_after_the_other() -> None:
    config = UMT5Config(d_model=512, d_kv=32, d_ff=2048, num_layers=3, num_heads=16, vocab_size=9000,
                        feed_forward_proj="gated-gelu")
    model = UMT5EncoderModel(config).eval()
    del model.shared  # the same weights again; what stands for a GPU here would hold them twice
    group_offloading.apply_group_offloading(model, onload_device=torch.device("meta"), offload_type="leaf_level")
    ids = torch.ones(1, 48, dtype=torch.long, device="meta")
    peak, _ = measured(lambda: model(ids, attention_mask=torch.ones_like(ids)), [], "meta")
    counted = text_encoder_weights(config.to_dict())
    assert peak == pytest.approx(counted.embedding * 4, rel=0.1)

    configs = Configs((wan_configs(WAN_13B).transformers[0],), WAN_21_VAE, config.to_dict(), 48)
    expected = expected_peak(configs, Work(64, 64, 9), MemoryOptions("low"), dtype="float32").stages["encoding"]
    ahead = counted.largest * 4
    assert expected - vae_weights(WAN_21_VAE) * 4 == pytest.approx(peak + ahead, rel=0.1), "a layer is brought ahead"
