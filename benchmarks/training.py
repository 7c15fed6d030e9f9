"""How fast training is, what it waits for and what memory it takes: one Markdown table, by the training loop's own log.

    python benchmarks/training.py --what toy                  # a few minutes on two idle cores
    python benchmarks/training.py --what wan                  # one GPU: Wan 2.1 1.3B at 832 x 480, 81 frames
    python benchmarks/training.py --what wan --base FOLDER --width 128 --height 96 --frames 5 --only LoRA run.device=cpu

Run are the shipped recipes (configs/toy.yaml, wan-1.3b.yaml, wan-1.3b-lora.yaml) with the same optimizers, averages and
losses, on toyworld clips with two subjects, always with timed captions. Their latents, references and texts are in a
cache that `alchemint precompute` makes; toy also streams and encodes its clips on the way, as its recipe says. A Wan's
weights are random (scripts/make_wan.py) unless --base names some. Each row is a process of its own. Without --only,
the rows of Wan are all weights and LoRA, each with and without activation checkpointing and compilation.

    step     the median of the steps after the first ones (--warmup), in which there is compilation
    data     share of those steps' time that was spent waiting for batches
    memory   the most that was allocated on the GPU; on a CPU, the process's peak
    MFU      operations a second by model/flops.py, as a share of what matrix products of this machine reach; what
             activation checkpointing computes twice counts twice
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import alchemint
from alchemint.toyworld import WorldConfig, render_clip
from alchemint.toyworld.clip_files import write_clips
from alchemint.training.precision import matmul_dtype, matmul_rate, pick_device
from alchemint.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
TOY = Path(alchemint.__file__).parent / "assets" / "toy"
COLUMNS = ("samples/s", "step, s", "data", "memory, GB", "MFU")
NEVER = 10**6
MIN_CLIP_FRAMES = 13
"""The toyworld's shortest clips; a window may be shorter."""


@dataclass(frozen=True)
class Case:
    """A row: its name and a recipe with changed values."""

    name: str
    recipe: Path
    overrides: tuple[str, ...]


def main() -> None:
    """Run the cases and print the table."""
    options = read_options()
    if options.rehearse:
        rehearse(Path(options.rehearse[0]), options.rehearse[1:])
        return
    cases = toy_cases(options) if options.what == "toy" else wan_cases(options)
    cases = [case for case in cases if all(part in case.name for part in options.only)]
    if not cases:
        sys.exit(f"no row's name has {' and '.join(options.only)}")
    print(f"| {options.what} | {' | '.join(COLUMNS)} |\n|---|" + "---:|" * len(COLUMNS), flush=True)
    for case in cases:
        print(f"| {case.name} | {' | '.join(measure(case, options))} |", flush=True)
    run = load_recipe(cases[0].recipe, cases[0].overrides).run
    device = pick_device(run)
    rate = matmul_rate(device, matmul_dtype(device, run))
    print(f"\n{machine(device)}: {rate / 1e12:.2f} TFLOP/s in matrix products; torch "
          f"{torch.__version__}; a batch is {run.batch_size}")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("toy", "wan"), default="toy")
    parser.add_argument("--base", type=Path, help="a Wan pipeline; one of random weights is made when not given")
    parser.add_argument("--geometry", default="wan2.1-1.3b", help="of the one that is made")
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--batch", type=int, default=1, help="samples a step of a Wan")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4, help="steps at the beginning that don't count")
    parser.add_argument("--num-clips", type=int, default=16)
    parser.add_argument("--only", action="append", default=[], help="only rows whose names have this; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--rehearse", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="recipe values to change in all rows: run.precision=bfloat16 …")
    return parser.parse_intermixed_args()


def toy_cases(options: argparse.Namespace) -> list[Case]:
    """Return the shipped toy recipe as it is, and with a cache beside a frozen text encoder."""
    recipe = ROOT / "configs" / "toy.yaml"
    common = [f"init_from={TOY}", f"vae={TOY}/vae", *common_overrides(options)]
    # A full pool takes a minute to fill, and is then as costly a step as a small one.
    streamed = Case("streamed clips, text encoder trained", recipe, (
        *common, "clips.num_groups=2", "clips.subject_shares=[0, 0, 1]", "clips.event_share=1"))
    # Clips on disk know neither their subjects' pixels nor which spot of a reference those show.
    cached = Case("cached latents and texts", recipe, (*common, "text_encoder=null", "subject_weight=0", "guide=null",
                                                       *data_overrides(options, 64, 64, 33, 8)))
    precompute(cached)
    return [replace(case, name=f"{case.name}, {name}", overrides=(*case.overrides, f"run.compile={name == 'compiled'}"))
            for case in (streamed, cached) for name in ("not compiled", "compiled")]


def wan_cases(options: argparse.Namespace) -> list[Case]:
    """Return the two recipes for Wan 2.1 1.3B, each with and without checkpointing and compilation."""
    base = options.base or options.out / options.geometry
    if not base.is_dir():
        call(ROOT / "scripts" / "make_wan.py", options.geometry, base, "--tiny-text-encoder")
    common = [f"base={base}", f"run.batch_size={options.batch}", "run.accumulate=1", "run.num_shards=1",
              *data_overrides(options, options.width, options.height, options.frames, 16), *common_overrides(options)]
    cases = []
    for kind, recipe in (("LoRA", "wan-1.3b-lora"), ("all weights", "wan-1.3b")):
        for checkpointing in (True, False):
            for compiled in (False, True):
                name = ", ".join([kind, "checkpointing" if checkpointing else "no checkpointing",
                                  "compiled" if compiled else "not compiled"])
                chosen = [f"run.checkpoint_activations={checkpointing}", f"run.compile={compiled}"]
                cases.append(Case(name, ROOT / "configs" / f"{recipe}.yaml", (*common, *chosen)))
    precompute(cases[0])
    return cases


def common_overrides(options: argparse.Namespace) -> list[str]:
    """Return what is changed in every recipe: a row of the log each step, and nothing written beside it."""
    return [f"run.steps={options.steps}", "run.log_every=1", "run.trackers=[]", f"run.sheet_every={NEVER}",
            f"run.checkpoint_minutes={NEVER}", *options.overrides]


def data_overrides(options: argparse.Namespace, width: int, height: int, num_frames: int, fps: float) -> list[str]:
    """Write clips with two subjects, where they aren't yet, and return the section of a recipe that reads them."""
    folder = options.out / f"{width}x{height}x{num_frames}-{options.num_clips}"
    if not any(folder.glob("*.parquet")):
        config = WorldConfig(width, height, max(num_frames, MIN_CLIP_FRAMES), fps)
        write_clips((render_clip("train", index, config, num_subjects=2) for index in range(options.num_clips)), folder)
    return [f"data.clips={folder}", f"data.cache={folder / f'cache-{options.what}'}",
            f"data.sizes=[[{width}, {height}]]", f"data.num_frames=[{num_frames}]", f"data.fps={fps}",
            "data.max_subjects=2", "data.event_share=1"]


def precompute(case: Case) -> None:
    """Make a case's cache, with references, or go on with it."""
    call("-m", "alchemint", "precompute", case.recipe, *case.overrides, "--windows", 1, "--variants", 2)


def call(*arguments: object) -> None:
    """Run Python; what it prints is no part of the table."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, stdout=sys.stderr)


def measure(case: Case, options: argparse.Namespace) -> list[str]:
    """Return the cells of a case: what its log says, or the last line of its fault."""
    output = options.out / "runs" / "-".join(case.name.replace(",", "").split())
    shutil.rmtree(output, ignore_errors=True)
    # As the command line has it; torch reads it when it is loaded.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run([sys.executable, __file__, "--rehearse", case.recipe, *case.overrides, f"output={output}"],
                          stderr=subprocess.PIPE, stdout=sys.stderr, text=True, env=environment)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        fault = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        return [fault, *[""] * (len(COLUMNS) - 1)]
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()][options.warmup:]
    return cells(rows, load_recipe(case.recipe, case.overrides).run.batch_size)


def cells(rows: list[dict[str, Any]], batch_size: int) -> list[str]:
    """Return the cells of a log's rows, each of one step."""
    step = statistics.median(row["step_s"] for row in rows)
    waited = sum(row["data_share"] * row["step_s"] for row in rows) / sum(row["step_s"] for row in rows)
    memory = max(row["memory_gb"] for row in rows)
    mfu = statistics.median(row["mfu"] for row in rows)
    return [f"{batch_size / step:.3g}", f"{step:.3g}", f"{waited:.1%}", f"{memory:.1f}", f"{mfu:.0%}"]


def machine(device: torch.device) -> str:
    """Return the device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPU cores"


def rehearse(recipe: Path, overrides: list[str]) -> None:
    """Take the steps of a recipe, as `alchemint train` would."""
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    from alchemint.cli.train import new_objective
    from alchemint.training import loop, ranks

    values = load_recipe(recipe, overrides)
    with ranks.joined(values.run) as joined:
        loop.rehearse(new_objective(values, joined), values, joined)


if __name__ == "__main__":
    main()
