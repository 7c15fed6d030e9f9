"""The formulas against what torch counts in real passes: on the CPU, and of full sizes on the meta device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alchemint.model.conditions import Events, References
from alchemint.model.flops import forward_flops, training_flops
from alchemint.model.transformer import AlchemintTransformer3DModel

NewTransformer = Callable[..., AlchemintTransformer3DModel]

WAN_1_3B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
SHAPE_480P = (21, 60, 104)
SHAPE_720P = (21, 90, 160)
EPISODES = {
    "nothing": (0, 0, 0), "references": (3, 0, 0), "events": (0, 2, 5), "references and events": (2, 3, 4),
    "an event": (1, 1, 6)}


def counted(model: AlchemintTransformer3DModel, latent_shape: tuple[int, int, int], num_prompt_tokens: int,
            episode: tuple[int, int, int], backward: bool = False, encode: bool = False) -> int:
    """What torch counts in a forward pass, and in a backward pass if it is asked for; with `encode`, of a pass whose
    references were encoded before.
    """
    num_references, num_events, num_event_tokens = episode
    config, device = model.config, model.device
    _, height, width = latent_shape
    with torch.device(device):
        references = References(
            torch.zeros(1, num_references, config.in_channels, height, width),
            torch.tensor([0.0, 1.0]).expand(1, num_references, 2),
            torch.zeros(1, num_references, dtype=torch.long),
            torch.zeros(1, num_references, config.num_word_tokens, config.text_dim),
            torch.ones(1, num_references, config.num_word_tokens, dtype=torch.bool))
        events = Events(
            torch.zeros(1, num_events, num_event_tokens, config.text_dim),
            torch.ones(1, num_events, num_event_tokens, dtype=torch.bool),
            torch.tensor([0.0, 1.0]).expand(1, num_events, 2)) if num_events else None
        if encode:
            with torch.no_grad():
                references = model.encode_references(torch.zeros(1, config.in_channels, *latent_shape),
                                                     torch.zeros(1, num_prompt_tokens, config.text_dim), references)
        # Attention's other kernels are not counted on the CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(backward):
            output = model(torch.zeros(1, config.in_channels, *latent_shape), torch.tensor([500.0]),
                           torch.zeros(1, num_prompt_tokens, config.text_dim), references, events).sample
            if backward:
                output.sum().backward()
    return counter.get_total_flops()


def on_meta(**options: Any) -> AlchemintTransformer3DModel:
    with torch.device("meta"):
        return AlchemintTransformer3DModel(**options)


@pytest.mark.parametrize("episode", EPISODES.values(), ids=EPISODES)
@pytest.mark.parametrize("options", [
    {}, {"reference_attention": "one_way"}, {"patch_size": (1, 1, 1)}, {"num_word_tokens": 0},
    {"condition_timestep": "shared"},
    {"out_channels": 6, "text_dim": 10, "num_layers": 3, "patch_size": (1, 2, 1)},
], ids=["plain", "one way", "1 x 1 patches", "no word tags", "shared timestep", "other widths"])
def test_a_forward_pass_is_counted_exactly(
    new_transformer: NewTransformer, options: dict[str, Any], episode: tuple[int, int, int]
) -> None:
    model = new_transformer(**options)
    ours = forward_flops(model.config, (3, 8, 6), episode[0], 7, *episode[1:])
    assert ours == counted(model, (3, 8, 6), 7, episode)


@pytest.mark.parametrize("episode", [EPISODES["references"], EPISODES["references and events"]])
def test_a_pass_with_encoded_references_is_counted_exactly(
    new_transformer: NewTransformer, episode: tuple[int, int, int]
) -> None:
    model = new_transformer(reference_attention="one_way")
    ours = forward_flops(model.config, (3, 8, 6), episode[0], 7, *episode[1:], encoded_references=True)
    assert ours == counted(model, (3, 8, 6), 7, episode, encode=True)
    with pytest.raises(ValueError, match="encoded apart with reference_attention"):
        forward_flops(new_transformer().config, (3, 8, 6), 1, 7, encoded_references=True)


@pytest.mark.parametrize("num_references", [0, 2])
@pytest.mark.parametrize("sizes", [WAN_1_3B, WAN_14B], ids=["1.3B", "14B"])
def test_a_forward_pass_of_full_size_is_counted_exactly(sizes: dict[str, int], num_references: int) -> None:
    model = on_meta(**{**sizes, "num_layers": 1})
    ours = forward_flops(model.config, SHAPE_480P, num_references, 512, 4, 128)
    assert ours == counted(model, SHAPE_480P, 512, (num_references, 4, 128))


@pytest.mark.parametrize(("sizes", "shape", "without", "with_two"), [
    (WAN_1_3B, SHAPE_480P, 283, 331), (WAN_1_3B, SHAPE_720P, 1250, 1479),
    (WAN_14B, SHAPE_480P, 1678, 1930), (WAN_14B, SHAPE_720P, 6523, 7633),
])
def test_wans_known_sizes(sizes: dict[str, int], shape: tuple[int, int, int], without: int, with_two: int) -> None:
    config = on_meta(**{**sizes, "num_layers": 0}).config | {"num_layers": sizes["num_layers"]}
    for num_references, known in ((0, without), (2, with_two)):
        assert forward_flops(config, shape, num_references, 512) / 1e12 == pytest.approx(known, rel=0.005)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("lora_rank", [None, 16])
def test_a_training_step_is_counted_to_one_per_cent(lora_rank: int | None, activation_checkpointing: bool) -> None:
    model = on_meta(num_attention_heads=4, attention_head_dim=64, ffn_dim=1024, num_layers=4, text_dim=64).train()
    if lora_rank is not None:
        model.requires_grad_(False)
        with torch.device("meta"):
            model.add_adapter(LoraConfig(r=lora_rank, target_modules=(
                r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))")))
        for name in model.new_module_names():
            model.get_submodule(name).requires_grad_(True)
    if activation_checkpointing:
        model.enable_gradient_checkpointing()
    shape, episode = (9, 32, 32), (2, 2, 16)
    ours = training_flops(model.config, shape, episode[0], 32, *episode[1:], activation_checkpointing, lora_rank)
    theirs = counted(model, shape, 32, episode, backward=True)
    assert theirs <= ours <= 1.01 * theirs


def test_events_need_the_event_branch(new_transformer: NewTransformer) -> None:
    config = new_transformer(event_encoding=None).config
    assert forward_flops(config, (3, 8, 8), 0, 7) > 0
    with pytest.raises(ValueError, match="2 events are given, but this model has no event branch"):
        forward_flops(config, (3, 8, 8), 0, 7, 2, 5)
