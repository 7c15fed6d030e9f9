"""Several processes make the video that one makes: by guidance's branches, by tokens, and from the command line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
from torch import distributed
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint.acceleration import AccelerationOptions, StepCache, accelerate
from alchemint.cli import main
from alchemint.media import read_video
from alchemint.pipeline import AlchemintPipeline
from tests.test_pipeline import EARLY, LATE, frames_of, latents_of, new_board, subject
from tests.training.processes import run_in_all

PARK = Path(__file__).parents[1] / "examples" / "park.yaml"
MODELS = {"full": {"reference_attention": "full"}, "one_way": {"reference_attention": "one_way"}}
ODD = {"width": 48, "height": 32, "num_frames": 9}
"""3 x 2 x 3 tokens of video, 6 and 4 more for each reference."""
BOARDS = {
    "references and events": new_board(subject(0), subject(2, (0.5, 1.0)), events=[EARLY, LATE], **ODD),
    "nobody": new_board(**ODD)}
CACHE = StepCache("first-block", 0.2)
WAYS = {
    "branches": AccelerationOptions(branch_parallel=2), "tokens": AccelerationOptions(context_parallel=2),
    "branches, cached": AccelerationOptions(branch_parallel=2, step_cache=CACHE),
    "tokens, cached": AccelerationOptions(context_parallel=2, step_cache=CACHE)}


@pytest.fixture(scope="module")
def folders(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel,
    new_transformer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of tiny pipelines with two experts."""
    root = tmp_path_factory.mktemp("models")
    for name, options in MODELS.items():
        AlchemintPipeline(
            tokenizer, text_encoder, vae, new_transformer(**options), FlowMatchEulerDiscreteScheduler(shift=5.66),
            new_transformer(seed=1, **options), width=32, height=32, num_frames=9, fps=8.0, max_prompt_tokens=12,
            max_event_tokens=6, boundary_ratio=0.9).save_pretrained(root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def made(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes have made, each telling by its number."""
    out = tmp_path_factory.mktemp("made")
    run_in_all(make_all, folders, out)
    return out


def make_all(folders: dict[str, Path], out: Path) -> None:
    """In each process: all that the tests look at, since starting processes takes longest."""
    rank = distributed.get_rank()
    torch.save(compare(folders), out / f"worst-{rank}.pt")
    torch.save(agree(folders["full"]), out / f"alike-{rank}.pt")
    with (out / f"printed-{rank}.txt").open("w") as printed, redirect_stdout(printed):
        generate(out / "both.mp4", "--branch-parallel", "2")


def load(folder: Path, options: AccelerationOptions | None = None) -> AlchemintPipeline:
    pipeline = AlchemintPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if options is not None:
        accelerate(pipeline, options)
    return pipeline


def compare(folders: dict[str, Path]) -> dict[str, float]:
    """How far the latents of every way are from those of one process."""
    worst: dict[str, float] = {}
    for model, folder in folders.items():
        alone = load(folder)
        expected = {name: latents_of(alone, board, num_inference_steps=4) for name, board in BOARDS.items()}
        for transformer in alone.transformers:
            transformer.enable_cache(FirstBlockCacheConfig(CACHE.threshold))
        cached = {name: latents_of(alone, board, num_inference_steps=4, batch_branches=False)
                  for name, board in BOARDS.items()}
        for way, options in WAYS.items():
            pipeline = load(folder, options)
            for name, board in BOARDS.items():
                # What a batch skips depends on all that is in it.
                for batched in (False,) if options.step_cache else (True, False):
                    made = latents_of(pipeline, board, num_inference_steps=4, batch_branches=batched)
                    wanted = (cached if options.step_cache else expected)[name]
                    worst[f"{model}, {way}, {name}, {batched}"] = (made - wanted).abs().max().item()
        worst[f"{model}, cached is another video"] = float(torch.allclose(
            cached["nobody"], expected["nobody"], atol=1e-3))
    return worst


def agree(folder: Path) -> dict[str, torch.Tensor]:
    """What all processes must have alike, though they are told differently, and what the first alone has."""
    rank = distributed.get_rank()
    pipeline = load(folder, AccelerationOptions(branch_parallel=2))
    unseeded = BOARDS["nobody"].model_copy(update={"seed": None})
    steps: list[int] = []

    def stop_in_the_first(pipe: AlchemintPipeline, step: int, *_: Any) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = rank == 0 and step == 1
        return {}

    known = torch.randn(1, 4, 1, 4, 6, generator=torch.Generator().manual_seed(rank))
    results = {
        "unseeded": latents_of(pipeline, unseeded), "known": latents_of(pipeline, unseeded, known_latents=known),
        "stopped": latents_of(pipeline, BOARDS["nobody"], num_inference_steps=5,
                              callback_on_step_end=stop_in_the_first),
        "steps": torch.tensor(steps), "frames": torch.from_numpy(frames_of(pipeline, BOARDS["nobody"]))}
    try:
        pipeline.parallelise(context=3)
    except ValueError as error:
        assert "but there are 2" in str(error)
    else:
        raise AssertionError
    return results


def generate(target: Path, *options: str) -> None:
    """Make a short video from the command line."""
    with pytest.raises(SystemExit) as end:
        main.main(["generate", str(PARK), "--steps", "2", "--device", "cpu", "-o", str(target), *options])
    assert not end.value.code


@pytest.mark.slow
def test_processes_make_what_one_makes(made: Path) -> None:
    for rank in range(2):
        worst = torch.load(made / f"worst-{rank}.pt")
        assert len(worst) == 2 * (2 * 4 + 2 * 2 + 1)
        assert {case: error for case, error in worst.items() if not error < 1e-4} == {}


@pytest.mark.slow
def test_processes_agree(made: Path) -> None:
    first, second = (torch.load(made / f"alike-{rank}.pt") for rank in range(2))
    for name in ("unseeded", "known", "stopped", "steps"):
        assert torch.equal(first[name], second[name]), name
    assert first["steps"].tolist() == [0, 1]
    assert first["frames"].shape == second["frames"].shape == (1, 9, 32, 48, 3)
    assert (second["frames"] == 0.5).all()
    assert first["frames"].std() > 0.05


@pytest.mark.slow
def test_the_command_runs_in_several_processes(made: Path) -> None:
    """What it prints and writes is there once, and the video is that of one process."""
    printed = (made / "printed-0.txt").read_text()
    assert printed.count("wrote") == printed.count("processes 2 x 1") == 1
    assert not (made / "printed-1.txt").read_text()
    assert sorted(path.name for path in made.glob("both*")) == ["both.json", "both.mp4"]
    record = json.loads((made / "both.json").read_text(encoding="utf-8"))
    assert record["options"]["acceleration"]["branch_parallel"] == 2
    generate(made / "one.mp4")
    both, one = (read_video(made / name)[0].astype(int) for name in ("both.mp4", "one.mp4"))
    assert np.abs(both - one).mean() < 0.5


FAILING = """
import os, sys
from alchemint import denoising
from alchemint.cli import main
if os.environ["RANK"] == "1":
    def fail(*_):
        raise ValueError("this process has had enough")
    denoising.GuidedVelocity._begin = fail
main.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    script, target = tmp_path / "failing.py", tmp_path / "never.mp4"
    script.write_text(FAILING)
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         "generate", str(PARK), "--steps", "999", "--device", "cpu", "--branch-parallel", "2", "-o", str(target)],
        capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert "error: this process has had enough" in done.stderr
    assert time.monotonic() - begun < 180
    assert not list(tmp_path.glob("never*"))


