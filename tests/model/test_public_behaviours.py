"""What users of diffusers expect of any of its models holds for the transformer and its pipeline, too."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch._dynamo.utils import counters
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint.model.conditions import Events, References
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.pipeline import AlchemintPipeline
from tests.test_pipeline import BOARDS, frames_of

NewTransformer = Callable[..., AlchemintTransformer3DModel]
ATTENTIONS = ("full", "one_way")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Two samples with two references and an event each."""
    return {
        "hidden_states": random(2, 4, 3, 4, 4, seed=0).to(dtype), "timestep": torch.tensor([900.0, 250.0]),
        "encoder_hidden_states": random(2, 7, 16, seed=1).to(dtype),
        "references": References(
            random(2, 2, 4, 4, 4, seed=2).to(dtype), torch.tensor([[0.0, 1.0], [0.5, 2.0]]).expand(2, -1, -1),
            torch.arange(2).expand(2, -1), random(2, 2, 4, 16, seed=3).to(dtype), torch.ones(2, 2, 4).bool()),
        "events": Events(random(2, 1, 5, 16, seed=4).to(dtype), torch.ones(2, 1, 5).bool(),
                         torch.tensor([[[0.0, 1.5]]]).expand(2, -1, -1))}


@torch.no_grad()
def outputs(model: AlchemintTransformer3DModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The prediction, and where references are encoded beforehand that with encoded ones, too."""
    given = inputs(dtype)
    made = [model(**given).sample]
    if model.config.reference_attention == "one_way":
        encoded = model.encode_references(given["hidden_states"], given["encoder_hidden_states"], given["references"])
        made.append(model(**{**given, "references": encoded}).sample)
    return torch.stack(made)


@pytest.fixture(params=ATTENTIONS)
def model(request: pytest.FixtureRequest, new_transformer: NewTransformer) -> AlchemintTransformer3DModel:
    return new_transformer(reference_attention=request.param)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Files


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "40KB"}, {"variant": "fp16"}], ids=str)
def test_it_comes_back_from_disk(model: AlchemintTransformer3DModel, tmp_path: Path, options: dict[str, Any]) -> None:
    model.save_pretrained(tmp_path, **options)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in options)
    loaded, told = AlchemintTransformer3DModel.from_pretrained(
        tmp_path, variant=options.get("variant"), output_loading_info=True)
    assert not any(told.values())
    assert all(name.startswith("_") or loaded.config[name] in (value, list(value) if name == "patch_size" else value)
               for name, value in model.config.items())
    assert same_weights(loaded, model)
    assert torch.allclose(outputs(loaded), outputs(model), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_what_wan_keeps(
    model: AlchemintTransformer3DModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Loaded so, and saved and loaded again; the modulation stays in float32, as Wan's does."""
    expected = outputs(model)
    model.save_pretrained(tmp_path / "full")
    half = AlchemintTransformer3DModel.from_pretrained(tmp_path / "full", torch_dtype=dtype)
    half.save_pretrained(tmp_path / "half")
    again = AlchemintTransformer3DModel.from_pretrained(tmp_path / "half", torch_dtype=dtype)
    assert same_weights(half, again)
    for each in (half, again):
        assert each.dtype == dtype
        kept = {name for name, weight in each.named_parameters() if weight.dtype == torch.float32}
        assert kept
        assert all(any(part in name for part in AlchemintTransformer3DModel._keep_in_fp32_modules) for name in kept)
        assert each.subject_index.weight.dtype == each.blocks[0].event_attn.to_q.weight.dtype == dtype
        made = outputs(each, dtype)
        assert made.dtype == dtype
        assert (made.float() - expected).std() < 0.1 * expected.std()


def test_it_moves_and_is_copied(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    assert torch.equal(outputs(copy.deepcopy(model)), expected)
    assert model.to("cpu").device.type == "cpu"
    assert torch.equal(outputs(model), expected)
    wide = outputs(copy.deepcopy(model).to(torch.float64), torch.float64)
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), expected, atol=1e-4)
    assert next(copy.deepcopy(model).to("meta").parameters()).is_meta


# Memory


@pytest.mark.parametrize("options", [{"offload_type": "block_level", "num_blocks_per_group": 1},
                                     {"offload_type": "leaf_level"}], ids=lambda options: options["offload_type"])
def test_groups_of_modules_are_offloaded(model: AlchemintTransformer3DModel, options: dict[str, Any]) -> None:
    expected = outputs(model)
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), **options)
    for _ in range(2):
        assert torch.equal(outputs(model), expected)


def test_weights_are_offloaded_one_by_one(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in model.parameters())
    for _ in range(2):
        assert torch.equal(outputs(model), expected)


def test_the_whole_model_is_offloaded(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    model, hook = cpu_offload_with_hook(model, torch.device("cpu"))
    assert torch.equal(outputs(model), expected)
    hook.offload()
    assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_weights_are_stored_in_eight_bits(model: AlchemintTransformer3DModel, compute_dtype: torch.dtype) -> None:
    expected = outputs(model)
    if compute_dtype != torch.float32:
        model.to(compute_dtype)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute_dtype)
    stored = {name for name, weight in model.named_parameters() if weight.dtype == torch.float8_e4m3fn}
    assert {"blocks.0.attn1.to_q.weight", "blocks.1.ffn.net.2.weight"} <= stored
    for _ in range(2):
        made = outputs(model, compute_dtype)
        assert made.isfinite().all()
        assert 0 < (made.float() - expected).std() < 0.3 * expected.std()
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn


# Attention


def test_projections_are_fused_and_parted(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    model.fuse_qkv_projections()
    assert model.blocks[0].attn1.fused_projections
    assert torch.allclose(outputs(model), expected, atol=1e-5)
    with torch.no_grad():
        model.blocks[0].attn1.to_qkv.weight.mul_(2)  # to see that it is the fused weights that count
    assert not torch.allclose(outputs(model), expected, atol=1e-3)
    model.unfuse_qkv_projections()
    assert torch.equal(outputs(model), expected)


def test_processors_are_told_and_set(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    processors = model.attn_processors
    assert len(processors) == 3 * len(model.blocks)
    model.set_attn_processor(dict(processors))
    assert torch.equal(outputs(model), expected)


def test_diffusers_own_context_parallel_is_not_offered(model: AlchemintTransformer3DModel) -> None:
    """Wan's plan would share the rotary tables out wrongly; `parallelise` is the way."""
    assert model._cp_plan is None


@pytest.mark.slow
def test_the_repeated_block_compiles_without_graph_breaks(model: AlchemintTransformer3DModel) -> None:
    expected = outputs(model)
    torch._dynamo.reset()
    counters.clear()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.allclose(outputs(model), expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]


# Adapters, through the pipeline


@pytest.fixture(scope="module")
def new_pipeline(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
    new_transformer: NewTransformer
) -> Callable[[], AlchemintPipeline]:
    """A function that builds a pipeline, always with the same weights."""
    return lambda: AlchemintPipeline(tokenizer, text_encoder, vae, new_transformer(), FlowMatchEulerDiscreteScheduler(),
                                     width=32, height=32, num_frames=9, fps=8.0)


@pytest.fixture(scope="module")
def loras(new_pipeline: Callable[[], AlchemintPipeline], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters on disk, over the attentions and the event branch."""
    folders = []
    for number in range(2):
        transformer = new_pipeline().transformer
        torch.manual_seed(number)
        transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"],
                                           init_lora_weights=False))
        folders.append(tmp_path_factory.mktemp("lora"))
        AlchemintPipeline.save_lora_weights(folders[-1],
                                            transformer_lora_layers=get_peft_model_state_dict(transformer))
    return folders


def test_adapters_are_weighed_switched_and_dropped(
    new_pipeline: Callable[[], AlchemintPipeline], loras: list[Path]
) -> None:
    pipeline, alone = new_pipeline(), []
    model, plain = pipeline.transformer, outputs(pipeline.transformer)
    for name, folder in zip(("one", "two"), loras, strict=True):
        pipeline.load_lora_weights(folder, adapter_name=name)
        pipeline.set_adapters(name)
        alone.append(outputs(model))
    assert pipeline.get_list_adapters() == {"transformer": ["one", "two"]}
    assert pipeline.get_active_adapters() == ["two"]
    assert all(not torch.allclose(first, second, atol=1e-3)
               for first, second in ((plain, alone[0]), (plain, alone[1]), (alone[0], alone[1])))
    pipeline.set_adapters(["one", "two"], [1.0, 0.0])
    assert torch.allclose(outputs(model), alone[0], atol=1e-5)
    pipeline.disable_lora()
    assert torch.allclose(outputs(model), plain, atol=1e-6)
    pipeline.enable_lora()
    pipeline.delete_adapters("one")
    pipeline.set_adapters("two")
    assert torch.allclose(outputs(model), alone[1], atol=1e-5)
    pipeline.unload_lora_weights()
    assert torch.equal(outputs(model), plain)


def test_adapters_are_fused_and_parted(new_pipeline: Callable[[], AlchemintPipeline], loras: list[Path]) -> None:
    pipeline = new_pipeline()
    model, plain = pipeline.transformer, outputs(pipeline.transformer)
    pipeline.load_lora_weights(loras[0], adapter_name="one")
    adapted, weight = outputs(model), model.blocks[0].attn1.to_q.base_layer.weight.clone()
    pipeline.fuse_lora()
    assert not torch.equal(model.blocks[0].attn1.to_q.base_layer.weight, weight)
    assert torch.allclose(outputs(model), adapted, atol=1e-4)
    pipeline.unfuse_lora()
    assert torch.allclose(outputs(model), adapted, atol=1e-4)
    pipeline.unload_lora_weights()
    assert torch.allclose(outputs(model), plain, atol=1e-5)
    assert model.blocks[0].attn1.to_q.weight.shape == weight.shape


@pytest.mark.parametrize("way", ["groups", "one by one"])
def test_a_whole_pipeline_is_offloaded(new_pipeline: Callable[[], AlchemintPipeline], way: str) -> None:
    pipeline = new_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    expected = frames_of(pipeline, BOARDS["events"], num_inference_steps=2)
    parts = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("text_encoder", "transformer", "vae")}
    pipeline.register_modules(**parts)
    cpu = torch.device("cpu")
    for part in parts.values():
        if way == "groups":
            apply_group_offloading(part, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
        else:
            cpu_offload(part, execution_device=cpu)
    made = frames_of(pipeline, BOARDS["events"], num_inference_steps=2)
    assert np.allclose(made, expected, atol=1e-5)
