"""`alchemint precompute` with the toy model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alchemint.cli.models import TOY_FOLDER

Alchemint = Callable[..., Any]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from alchemint.toyworld import WorldConfig, render_clip
    from alchemint.toyworld.clip_files import write_clips

    folder = tmp_path_factory.mktemp("clips")
    config = WorldConfig(width=32, height=32, num_frames=13)
    write_clips([render_clip("train", index, config, num_subjects=1) for index in range(3)], folder)
    (folder / "videos" / "train-000001.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.usefixtures("toy")
def test_the_cache_is_that_of_the_models_encoders(clips: Path, tmp_path: Path, alchemint: Alchemint) -> None:
    from diffusers import AutoencoderKLWan
    from transformers import AutoTokenizer, UMT5EncoderModel

    from alchemint.data.clip_plans import SampleOptions
    from alchemint.data.latent_cache import LatentCache, encoder_identity
    from alchemint.data.record_clips import ClipFolder
    from alchemint.model import text
    from alchemint.model.latents import as_pixels, encode_video
    from alchemint.records import read_records

    options = ["--clips", clips, "--out", tmp_path / "cache", "--size", "32x32", "--num-frames", 9, "--fps", 6,
               "--num-windows", 2, "--clips-per-shard", 2, "--device", "cpu"]
    outcome = alchemint("precompute", *options)
    assert outcome.status == 0, outcome.err
    assert "2 clips encoded into" in outcome.out
    assert "left out train-000001: " in outcome.out and "not a readable video" in outcome.out
    again = alchemint("precompute", *options)
    assert "0 clips encoded" in again.out and "2 shards were there already" in again.out
    folder = ClipFolder(clips, SampleOptions(((32, 32),), (9,), 6.0))
    cache = LatentCache(tmp_path / "cache", folder, encoder_identity(TOY_FOLDER, 512))
    vae = AutoencoderKLWan.from_pretrained(TOY_FOLDER / "vae").eval()
    start = cache.starts("train-000002")[1]
    video = folder.load(folder.window_at(2, start), [], np.random.default_rng(0)).video
    with torch.no_grad():
        expected = encode_video(vae, as_pixels(video[None]))[0]
    assert torch.allclose(cache.latents("train-000002", 1).float(), expected, atol=5e-3)
    tokenizer = AutoTokenizer.from_pretrained(TOY_FOLDER / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(TOY_FOLDER / "text_encoder").eval()
    record = next(iter(read_records(clips)))
    for wanted in ("", record.caption, record.entities[0].word):
        ids, mask = text.tokenize(tokenizer, [wanted], 64, "cpu")
        with torch.no_grad():
            embedding = text.embed(encoder, ids, mask)[0]
        found = cache.embedding(wanted)
        assert len(found) == mask.sum()
        assert torch.allclose(found, embedding[:len(found)], atol=1e-5)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("option", "value", "message"), [
    ("--size", "32", 'size "32": write it as WIDTHxHEIGHT'), ("--size", "30x32", "must be multiples of 8"),
    ("--num-frames", 10, "num_frames 10: the count must be 4k+1"), ("--fps", 60, "none of 3 clips can be used"),
    ("--num-windows", 0, "num_windows 0 must be 1 or more"), ("--model", "nowhere", "nowhere"),
    ("--clips", "nowhere", "nowhere/records.jsonl: No such file")])
def test_wrong_options_are_named(
    clips: Path, tmp_path: Path, alchemint: Alchemint, option: str, value: object, message: str
) -> None:
    given = {"--clips": clips, "--out": tmp_path / "cache", "--size": "32x32", "--num-frames": 9, "--fps": 6,
             option: value}
    outcome = alchemint("precompute", *(part for pair in given.items() for part in pair))
    assert outcome.status == 2
    assert message in outcome.err
    assert not (tmp_path / "cache").exists()
