"""`alchemint export`: a checkpoint of a fine-tuning run as a folder that `generate` takes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from alchemint.cli.train import _keep_recipe, new_objective
from alchemint.media import read_video
from alchemint.model.conditions import References
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.pipeline import AlchemintPipeline
from alchemint.training import checkpoint, loop
from alchemint.training.ranks import ALONE
from alchemint.training.recipe import EncodedClips, Lora, Optimizer, Run, TextEncoder, TransformerRecipe, World

Alchemint = Callable[..., Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
RANK, ALPHA = 4, 6.0
STEPS = 6
BOARD = {"prompt": "a red balloon drifts over the meadow", "seed": 1, "subjects": [
    {"name": "balloon", "word": "balloon", "images": [str(EXAMPLES / "balloon.png")], "appears": [[0.5, 1.5]]}]}


@dataclass(frozen=True)
class Runs:
    """Finished runs of a tiny Wan: all of it trained, and adapters."""

    base: Path
    full: Path
    lora: Path


@pytest.fixture(scope="module")
def runs(folder_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    for name, lora in (("full", None), ("lora", Lora(rank=RANK, alpha=ALPHA))):
        recipe = TransformerRecipe(
            kind="transformer", output=root / name, base=str(folder_of("tiny")), lora=lora,
            world=World(width=32, height=32, num_frames=13, fps=6.0), model={"num_word_tokens": 4},
            clips=EncodedClips(num_groups=2, uses=3), guidance={"text_scale": 2.0},
            optimizer=Optimizer(lr=2e-2, warmup_steps=0),
            run=Run(steps=STEPS, batch_size=2, num_workers=0, device="cpu", ema_decay=0.9, trackers=(),
                    checkpoint_minutes=1e-9))
        _keep_recipe(recipe)
        loop.train(new_objective(recipe, ALONE), recipe)
    return Runs(folder_of("tiny"), root / "full", root / "lora")


def merged(base: Path, run: Path, kind: str) -> AlchemintTransformer3DModel:
    """The transformer by the tensors of a run's newest checkpoint, with adapters multiplied out."""
    model = AlchemintTransformer3DModel.from_wan(base / "transformer", num_word_tokens=4)
    folder = checkpoint.latest(run / "checkpoints")
    assert folder is not None
    (file,) = folder.glob("*.safetensors")
    prefix = f"{kind}/transformer."
    saved = {name.removeprefix(prefix): tensor for name, tensor in load_file(file).items() if name.startswith(prefix)}
    weights = model.state_dict()
    for name, tensor in saved.items():
        if ".lora_" not in name:
            weights[name] = tensor
        elif ".lora_A." in name:
            layer = name.split(".lora_A.")[0]
            product = saved[name.replace(".lora_A.", ".lora_B.")] @ tensor
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + ALPHA / RANK * product
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def velocity(model: AlchemintTransformer3DModel) -> torch.Tensor:
    """What a transformer makes of one fixed input, with two references."""
    generator = torch.Generator().manual_seed(0)
    references = References(
        torch.randn(1, 2, 16, 4, 4, generator=generator), torch.tensor([[[0.0, 2.0], [1.0, 3.0]]]),
        torch.tensor([[0, 1]]), torch.randn(1, 2, 4, 32, generator=generator), torch.ones(1, 2, 4, dtype=torch.bool))
    return model(torch.randn(1, 16, 3, 4, 4, generator=generator), torch.tensor([500.0]),
                 torch.randn(1, 6, 32, generator=generator), references).sample


@pytest.mark.parametrize("name", ["full", "lora"])
def test_an_export_is_the_averaged_weights_or_the_last(
    alchemint: Alchemint, runs: Runs, tmp_path: Path, name: str
) -> None:
    run = getattr(runs, name)
    assert alchemint("export", run, "-o", tmp_path / "averaged").status == 0
    assert alchemint("export", run, "-o", tmp_path / "last", "--weights", "last").status == 0
    made = {}
    for folder, kind in (("averaged", "ema"), ("last", "weights")):
        pipeline = AlchemintPipeline.from_pretrained(tmp_path / folder)
        assert not any("lora" in key for key in pipeline.transformer.state_dict())
        made[kind] = velocity(pipeline.transformer)
        assert torch.allclose(made[kind], velocity(merged(runs.base, run, kind)), atol=1e-5)
    assert (made["ema"] - made["weights"]).abs().max() > 1e-2
    assert (pipeline.config.width, pipeline.config.num_frames, pipeline.config.fps) == (32, 13, 6.0)
    assert (pipeline.config.max_prompt_tokens, pipeline.config.guidance) == (512, {"text_scale": 2.0})
    assert pipeline.text_encoder.dtype == torch.bfloat16


def test_weights_can_be_halved(alchemint: Alchemint, runs: Runs, tmp_path: Path) -> None:
    outcome = alchemint("export", runs.lora, "-o", tmp_path / "out", "--dtype", "bfloat16")
    assert outcome.out == f"{tmp_path}/out: the model of {checkpoint.latest(runs.lora / 'checkpoints')}\n"
    file = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in file.values()} == {torch.bfloat16}
    exact = merged(runs.base, runs.lora, "ema").state_dict()
    assert file.keys() == exact.keys()
    for key, tensor in file.items():
        assert torch.allclose(tensor.float(), exact[key], rtol=2 ** -8, atol=1e-6), key


def test_an_older_step_is_another_model(alchemint: Alchemint, runs: Runs, tmp_path: Path) -> None:
    for step in (STEPS - 1, STEPS):
        assert alchemint("export", runs.full, "-o", tmp_path / str(step), "--step", step).status == 0
    older, newest = (load_file(tmp_path / str(step) / "transformer" / "diffusion_pytorch_model.safetensors")
                     for step in (STEPS - 1, STEPS))
    assert not torch.equal(older["proj_out.weight"], newest["proj_out.weight"])


def test_a_moved_run_from_scratch_brings_what_it_trained_along(
    alchemint: Alchemint, vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, wan_sizes: dict[str, Any],
    tmp_path: Path
) -> None:
    vae.save_pretrained(tmp_path / "vae")
    model = {**wan_sizes, "num_word_tokens": 4}
    del model["text_dim"]
    recipe = TransformerRecipe(
        kind="transformer", output=tmp_path / "run", vae=tmp_path / "vae", model=model,
        world=World(width=32, height=32, num_frames=13, fps=6.0), clips=EncodedClips(num_groups=1, uses=2),
        text_encoder=TextEncoder(d_model=16, num_layers=1, num_heads=2, d_ff=32, max_prompt_tokens=12,
                                 max_event_tokens=6),
        optimizer=Optimizer(lr=2e-2, warmup_steps=0),
        run=Run(steps=2, batch_size=2, num_workers=0, device="cpu", trackers=()))
    tokenizer.save_pretrained(recipe.output / "tokenizer")
    _keep_recipe(recipe)
    loop.train(new_objective(recipe, ALONE), recipe)
    recipe.output.rename(tmp_path / "moved")

    outcome = alchemint("export", tmp_path / "moved", "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert not recipe.output.exists()
    pipeline = AlchemintPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.tokenizer.get_vocab() == tokenizer.get_vocab()
    own = AlchemintPipeline.from_pretrained(tmp_path / "moved" / "export")
    for name in ("transformer", "text_encoder", "vae"):
        expected = getattr(own, name).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in getattr(pipeline, name).state_dict().items())


def test_what_cannot_be_exported_is_one_line(alchemint: Alchemint, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "recipe.yaml").write_text(yaml.safe_dump({
        "kind": "vae", "output": str(tmp_path / "vae"), "model": {}, "optimizer": {"lr": 1.0},
        "run": {"steps": 1, "batch_size": 1}}))
    shutil.copytree(runs.full / "checkpoints", tmp_path / "vae" / "checkpoints")
    for arguments, fault in (
        ([runs.full, "--step", 3], f"no checkpoint of step 3; there are: {STEPS - 1}, {STEPS}"),
        ([tmp_path], "there is no recipe.yaml; give the output folder of a training run"),
        ([tmp_path / "vae"], "trained a vae; its own export folder holds it"),
    ):
        outcome = alchemint("export", *arguments, "-o", tmp_path / "out")
        assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert fault in outcome.err
        assert not (tmp_path / "out").exists()


def test_a_video_is_generated_from_an_export(alchemint: Alchemint, runs: Runs, tmp_path: Path) -> None:
    assert alchemint("export", runs.lora, "-o", tmp_path / "model").status == 0
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(BOARD))
    outcome = alchemint("generate", tmp_path / "board.yaml", "--model", tmp_path / "model", "--steps", 2,
                        "-o", tmp_path / "balloon.mp4")
    assert outcome.status == 0, outcome.err
    frames, fps = read_video(tmp_path / "balloon.mp4")
    assert (frames.shape, fps) == ((13, 32, 32, 3), 6.0)
    assert frames.std() > 5
    record = json.loads((tmp_path / "balloon.json").read_text())
    assert record["storyboard"]["subjects"][0]["appears"] == [[0.5, 1.5]]
