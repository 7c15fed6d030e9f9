"""Wan's own names of weights lead to those of diffusers' and transformers' classes, one to one."""

from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from transformers import UMT5Config, UMT5EncoderModel

from alchemint.wan import names, sizes

VAES = ["tiny", "tiny-5b", "wan2.1-1.3b", "wan2.2-5b"]


def meta(model: type, *config: Any, **sizes: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return model(*config, **sizes)


@pytest.mark.parametrize("geometry", VAES)
def test_each_name_of_a_vae_is_found_again(make_wan: ModuleType, geometry: str) -> None:
    """make_wan.py has the way back, written apart."""
    vae = meta(AutoencoderKLWan, **make_wan.GEOMETRIES[geometry].vae)
    originals = {make_wan.original_vae_name(name, vae.config.num_res_blocks, vae.config.is_residual): name
                 for name in vae.state_dict()}
    assert len(originals) == len(vae.state_dict())
    assert names.vae_names(originals) == originals


def test_the_names_of_wan_2_1s_vae_are_those_of_diffusers_own_conversion(make_wan: ModuleType) -> None:
    originals = [make_wan.original_vae_name(name, 2, False) for name in meta(AutoencoderKLWan).state_dict()]
    theirs = {old: new for new, old in convert_wan_vae_to_diffusers({name: name for name in originals}).items()}
    # It names the shortcuts of levels that change their width; of those there is one.
    assert names.vae_names(originals) == theirs
    assert {"encoder.downsamples.3.shortcut.weight", "decoder.upsamples.4.shortcut.bias", "encoder.head.2.weight",
            "decoder.upsamples.3.time_conv.weight", "encoder.middle.1.to_qkv.weight", "conv1.bias"} <= set(originals)


@pytest.mark.parametrize(("theirs", "ours"), [
    ("encoder.downsamples.1.downsamples.0.shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
    ("encoder.downsamples.2.downsamples.1.residual.6.bias", "encoder.down_blocks.2.resnets.1.conv2.bias"),
    ("encoder.downsamples.1.downsamples.2.time_conv.weight", "encoder.down_blocks.1.downsampler.time_conv.weight"),
    ("decoder.upsamples.0.upsamples.2.residual.3.gamma", "decoder.up_blocks.0.resnets.2.norm2.gamma"),
    ("decoder.upsamples.2.upsamples.3.resample.1.bias", "decoder.up_blocks.2.upsampler.resample.1.bias"),
    ("decoder.head.0.gamma", "decoder.norm_out.gamma"),
])
def test_names_of_wan_2_2s_vae(theirs: str, ours: str) -> None:
    assert names.vae_names([theirs]) == {theirs: ours}


def test_each_name_of_the_text_encoder_is_found_again(make_wan: ModuleType) -> None:
    encoder = meta(UMT5EncoderModel, UMT5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=3, num_heads=2))
    ours = [name for name in encoder.state_dict() if name not in encoder._tied_weights_keys]
    originals = {make_wan.original_text_name(name): name for name in ours}
    assert names.text_encoder_names(originals) == originals
    assert {"token_embedding.weight", "norm.weight", "blocks.2.pos_embedding.embedding.weight",
            "blocks.0.ffn.gate.0.weight", "blocks.1.attn.q.weight", "blocks.1.norm2.weight"} <= set(originals)


def test_names_of_diffusers_own_stay() -> None:
    ours = list(meta(WanTransformer3DModel, num_layers=1, num_attention_heads=1, ffn_dim=8).state_dict())
    assert names.transformer_names(ours) == {name: name for name in ours}


def test_the_gate_of_the_text_encoder_is_the_part_that_is_activated() -> None:
    """Wan's `gate` ends in GELU; so does transformers' wi_0."""
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    feed_forward = encoder.encoder.block[0].layer[1].DenseReluDense.eval()
    states = torch.randn(1, 3, 8)
    gelu = torch.nn.functional.gelu(feed_forward.wi_0(states), approximate="tanh")
    assert torch.allclose(feed_forward(states), feed_forward.wo(gelu * feed_forward.wi_1(states)), atol=1e-6)


@pytest.mark.parametrize("geometry", VAES)
def test_a_vaes_weights_tell_its_config(make_wan: ModuleType, geometry: str, tmp_path: Any) -> None:
    vae = meta(AutoencoderKLWan, **make_wan.GEOMETRIES[geometry].vae)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    told = meta(AutoencoderKLWan, **sizes.vae_config(shapes, tmp_path)).config
    expected = {**vae.config, "decoder_base_dim": vae.config.decoder_base_dim or vae.config.base_dim}
    assert {name: value for name, value in told.items() if name[0] != "_"} == {
        name: value for name, value in expected.items() if name[0] != "_"}


@pytest.mark.parametrize("geometry", ["wan2.1-1.3b", "wan2.1-14b", "wan2.2-5b"])
def test_a_transformers_weights_tell_its_config(make_wan: ModuleType, geometry: str, tmp_path: Any) -> None:
    wan = meta(WanTransformer3DModel, **make_wan.GEOMETRIES[geometry].transformer)
    shapes = {name: tuple(tensor.shape) for name, tensor in wan.state_dict().items()}
    told = sizes.transformer_config(shapes, {}, tmp_path)
    assert {**wan.config, **told, "patch_size": tuple(told["patch_size"])} == dict(wan.config)


def test_what_weights_do_not_tell_is_as_in_the_base(make_wan: ModuleType, tmp_path: Any) -> None:
    wan = meta(WanTransformer3DModel, **make_wan.GEOMETRIES["tiny"].transformer)
    shapes = {name: tuple(tensor.shape) for name, tensor in wan.state_dict().items()}
    assert sizes.transformer_config(shapes, dict(wan.config), tmp_path)["num_attention_heads"] == 2
    with pytest.raises(ValueError, match="has a width of 24, which no number of heads of 128 channels makes"):
        sizes.transformer_config(shapes, {}, tmp_path)
