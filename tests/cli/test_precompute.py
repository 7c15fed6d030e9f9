"""`alchemint precompute` by a recipe that starts from the toy model, and `alchemint train` by the same recipe."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from alchemint.cli.models import TOY_FOLDER

Alchemint = Callable[..., Any]
Recipe = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips as `alchemint toyworld` writes them."""
    from alchemint.cli.main import build_app

    folder = tmp_path_factory.mktemp("clips")
    arguments = f"toyworld --out {folder} --num 3 --width 32 --height 32 --num-frames 13 --fps 6".split()
    with pytest.raises(SystemExit) as caught:
        build_app(arguments)(args=arguments)
    assert not caught.value.code
    return folder


@pytest.fixture
def recipe(clips: Path, tmp_path: Path) -> Recipe:
    """A function that writes a recipe: three steps of two clips. Values change its keys."""

    def write(**values: Any) -> Path:
        data = {"clips": str(clips), "cache": str(tmp_path / "cache"), "sizes": [[32, 32]], "num_frames": [9],
                "fps": 6.0}
        run = {"steps": 3, "batch_size": 2, "num_workers": 0, "log_every": 1, "device": "cpu", "trackers": []}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({
            "kind": "transformer", "output": str(tmp_path / "run"), "init_from": str(TOY_FOLDER), "data": data,
            "optimizer": {"lr": 1e-4}, "run": run, "subject_weight": 0.0, **values}))
        return path

    return write


def other_vae(folder: Path) -> Path:
    """Write the toy's VAE with one weight changed."""
    shutil.copytree(TOY_FOLDER / "vae", folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, file)
    return folder


def test_the_cache_is_that_of_the_models_encoders(
    clips: Path, tmp_path: Path, alchemint: Alchemint, recipe: Recipe
) -> None:
    from diffusers import AutoencoderKLWan
    from transformers import AutoTokenizer, UMT5EncoderModel

    from alchemint.data.clip_plans import SampleOptions
    from alchemint.data.latent_cache import LatentCache, encoder_identity
    from alchemint.data.record_clips import ClipFolder
    from alchemint.model import text
    from alchemint.model.latents import as_pixels, encode_video
    from alchemint.record_files import read_records

    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "videos" / "train-000001.mp4").write_bytes(b"no video")
    arguments = [recipe(), f"data.clips={tmp_path / 'clips'}", "--windows", 2, "--clips-per-shard", 2]
    outcome = alchemint("precompute", *arguments)
    assert outcome.status == 0, outcome.err
    assert "2 clips encoded into" in outcome.out
    assert "left out train-000001: " in outcome.out and "not a readable video" in outcome.out
    again = alchemint("precompute", *arguments)
    assert "0 clips encoded" in again.out and "2 shards were there already" in again.out
    folder = ClipFolder(tmp_path / "clips", SampleOptions(((32, 32),), (9,), 6.0))
    cache = LatentCache(tmp_path / "cache", folder, encoder_identity(TOY_FOLDER / "vae", TOY_FOLDER, 48))
    vae = AutoencoderKLWan.from_pretrained(TOY_FOLDER / "vae").eval()
    place = next(place for place, plan in enumerate(folder.plans) if plan.clip_id == "train-000002")
    start = cache.starts("train-000002")[1]
    video = folder.load(folder.window_at(place, start), [], np.random.default_rng(0)).video
    with torch.no_grad():
        expected = encode_video(vae, as_pixels(video[None]))[0]
    assert torch.allclose(cache.latents("train-000002", 1).float(), expected, atol=5e-3)
    tokenizer = AutoTokenizer.from_pretrained(TOY_FOLDER / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(TOY_FOLDER / "text_encoder").eval()
    record = next(iter(read_records(clips)))
    for wanted in ("", record.caption, record.entities[0].word):
        ids, mask = text.tokenize(tokenizer, [wanted], 48, "cpu")
        with torch.no_grad():
            embedding = text.embed(encoder, ids, mask)[0]
        found = cache.embedding(wanted)
        assert len(found) == mask.sum()
        # A frozen text encoder is kept in bfloat16.
        assert (found - embedding[:len(found)]).norm() < 0.02 * embedding.norm()


@pytest.mark.parametrize("variants", [0, 2])
def test_training_takes_the_cache_of_its_recipe_and_no_other(
    tmp_path: Path, alchemint: Alchemint, recipe: Recipe, variants: int
) -> None:
    path = recipe()
    assert alchemint("precompute", path, "--windows", 2, "--variants", variants).status == 0
    outcome = alchemint("train", path)
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(row["loss"]) for row in rows)
    changed_vae = other_vae(tmp_path / "vae")
    for override, message in [("data.fps=5", "fps: 6.0 there, 5.0 now"), (f"vae={changed_vae}", "vae: ")]:
        for command in ("train", "precompute"):
            windows = ["--windows", 2, "--variants", variants] if command == "precompute" else []
            outcome = alchemint(command, path, override, f"output={tmp_path / 'other'}", *windows)
            assert outcome.status == 2
            (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
            assert f"{tmp_path / 'cache'} is a cache of something else ({message}" in line
            assert "precompute into another folder" in line


def test_latents_of_the_cache_train_as_those_encoded_on_the_way(
    tmp_path: Path, alchemint: Alchemint, recipe: Recipe
) -> None:
    """The one window of a clip as long as a window, and the same texts: nothing else differs."""
    path = recipe()
    common = ["data.num_frames=[13]", "run.steps=2"]
    assert alchemint("precompute", path, *common, "--windows", 1).status == 0
    losses = []
    for name, overrides in (("with", []), ("without", ["data.cache=null"])):
        outcome = alchemint("train", path, *common, f"output={tmp_path / name}", *overrides)
        assert outcome.status == 0, outcome.err
        log = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in log])
    assert np.allclose(*losses, rtol=5e-3)


@pytest.mark.parametrize(("overrides", "message"), [
    (["data=null"], "data is missing: the clips on disk; name them by data.clips"),
    (["data.cache=null"], "data.cache is missing: the folder to write; name it by data.cache=FOLDER"),
    (["text_encoder.d_model=128"], "text_encoder: this recipe trains a text encoder along"),
    (["data.sizes=[[30, 32]]"], "size 30 x 32: both sides must be multiples of 4"),
    (["data.num_frames=[10]"], "num_frames 10: the count must be 4k+1"),
    (["data.fps=60"], "none of 3 clips can be used"),
    (["data.clips=nowhere"], "nowhere is no folder; correct its path"),
    (["init_from=nowhere"], "nowhere: there is no model_index.json"),
    (["vae=nowhere"], "nowhere: there is no config.json; give the folder of a VAE"),
    (["data.sices=3"], "data.sices: Extra inputs are not permitted")])
def test_a_recipe_of_which_no_cache_can_be_made(
    tmp_path: Path, alchemint: Alchemint, recipe: Recipe, overrides: list[str], message: str
) -> None:
    outcome = alchemint("precompute", recipe(), *overrides)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "cache").exists()


def test_a_recipe_of_a_vae_is_refused(tmp_path: Path, alchemint: Alchemint) -> None:
    path = tmp_path / "vae.yaml"
    path.write_text("{kind: vae, output: run, model: {}, optimizer: {lr: 1.0}, run: {steps: 1, batch_size: 1}}")
    outcome = alchemint("precompute", path)
    assert outcome.status == 2
    assert "kind: vae trains on pixels; give a recipe of kind transformer" in outcome.err
