"""Peers' own pipelines, loaded from tiny checkpoints with random weights, make videos of what they are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from PIL import Image

from alchemint.s2vtime import peers
from alchemint.s2vtime.suite import About, Entry, write_suite

FORMAT = {"width": 32, "height": 32, "fps": 4.0, "num_inference_steps": 2}


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    (tmp_path / "images").mkdir()
    for name, colour in {"fox": (250, 20, 10, 255), "duck": (10, 20, 250, 255)}.items():
        picture = np.zeros((16, 16, 4), np.uint8)
        picture[4:12, 4:12] = colour
        Image.fromarray(picture).save(tmp_path / "images" / f"{name}.png")
    subjects = [{"name": name, "word": name, "images": [f"images/{name}.png"], "appears": [[0.5, 1.5]]}
                for name in ("fox", "duck")]
    suite = write_suite(tmp_path, About(name="one", version=1), [
        {"id": "a", "storyboard": {"prompt": "A fox and a duck.", "duration": 2.1, "seed": 3, "subjects": subjects}}])
    return suite.entries[0]


@pytest.fixture
def new_checkpoint(tmp_path: Path, tokenizer: Any, text_encoder: Any) -> Callable[[str], Path]:
    """A function that saves a tiny pipeline of a peer's class."""

    def save(name: str) -> Path:
        torch.manual_seed(0)
        vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                               temperal_downsample=[False, True, True])
        sizes = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
                 "out_channels": 16, "text_dim": text_encoder.config.d_model, "freq_dim": 16, "ffn_dim": 16,
                 "num_layers": 2, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32}
        parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae,
                 "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                                      num_train_timesteps=1000, flow_shift=3.0)}
        if name == "wan":
            pipeline: Any = WanPipeline(transformer=WanTransformer3DModel(**sizes), **parts)
        else:
            pipeline = WanVACEPipeline(transformer=WanVACETransformer3DModel(
                **sizes, vace_layers=[0], vace_in_channels=96), **parts)
        pipeline.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_are_loaded_and_make_videos(name: str, new_checkpoint: Callable[[str], Path], entry: Entry) -> None:
    folder = new_checkpoint(name)
    system = peers.load_peer(name, folder, **FORMAT)
    frames, fps = system.make(entry)
    assert frames.shape == (9, 32, 32, 3) and frames.dtype == np.uint8
    assert fps == 4.0
    assert np.array_equal(system.make(entry)[0], frames)
    assert system.settings["weights"] == str(folder)
    assert "intervals" in system.abilities.not_taken(entry.storyboard)


def test_vace_gets_references_in_their_order_on_white(
    new_checkpoint: Callable[[str], Path], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the transformer is conditioned on: the first subject's reference comes first."""
    system = peers.load_peer("vace", new_checkpoint("vace"), **FORMAT)
    prepare = system.pipeline.prepare_video_latents
    colours, first_latents = [], []

    def noted(video: Any, mask: Any, reference_images: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        latents: torch.Tensor = prepare(video, mask, reference_images, *args, **kwargs)
        for image in reference_images[0]:
            colours.append(image.mean((-1, -2)).flatten())
            alone = prepare(video, mask, [[image]], *args, **kwargs)
            first_latents.append(torch.equal(alone[:, :, 0], latents[:, :, 0]))
        return latents

    monkeypatch.setattr(system.pipeline, "prepare_video_latents", noted)
    system.make(entry)
    assert first_latents.count(True) == 1
    red, _, blue = colours[first_latents.index(True)].tolist()
    assert red > blue + 0.2
    assert all(colour.max() > 0.5 for colour in colours)


def test_an_unknown_peer_is_told() -> None:
    with pytest.raises(ValueError, match='system "sora" is unknown; use one of wan, vace'):
        peers.load_peer("sora")
