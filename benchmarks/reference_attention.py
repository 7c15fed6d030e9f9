"""What it costs in control, and saves in time, that references are blind to the video: two toys, else trained alike.

    python benchmarks/reference_attention.py --full runs/toy-full/export --one-way runs/toy-one-way/export

Both recipes are the same but for the second one's model.reference_attention=one_way; where the package lies in src:

    alchemint train configs/toy.yaml model.reference_attention=one_way init_from=src/alchemint/assets/toy \\
        vae=src/alchemint/assets/toy/vae clips.stills_share=0.2 clips.own_frame_share=0.2 run.steps=1100 seed=7 \\
        output=runs/toy-one-way

Scored by S2VTime with the package's own commands (resumable in --out): each model with its own guidance, and the
second with fewer evaluations. Printed are t-IoU, its paired difference from the first row, and the time of a video's
steps and decoding against the first row's, measured in turn in this process.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alchemint import media
from alchemint.cli.allocator import keep_memory
from alchemint.cli.models import find_model, load_pipeline
from alchemint.s2vtime.metrics import compare_paired
from alchemint.s2vtime.summary import per_storyboard

GUIDANCES: dict[str, dict[str, Any]] = {
    "three evaluations": {},
    "by images in the first 30 % of the steps": {"image_interval": [0.0, 0.3]},
    "both by one scale (two evaluations)": {"image_scale": 2.5, "text_scale": 2.5},
    "by the text in the first 30 % of the steps": {"text_interval": [0.0, 0.3]},
}
NUM_TIMED = 3


def main() -> None:
    """Make, score, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, required=True, help="a model whose references see the video")
    parser.add_argument("--one-way", type=Path, required=True, help="one whose references don't")
    parser.add_argument("--out", type=Path, default=Path("out/reference-attention"))
    parser.add_argument("--suites", nargs="+", default=["toy-single", "toy-dual"])
    parser.add_argument("--limit", type=int, default=100, help="storyboards of each suite")
    parser.add_argument("--only", type=int, nargs="+", help="rows to make and score here, by number; print nothing")
    options = parser.parse_args()
    keep_memory()
    models = {"see the video, three evaluations": with_guidance(options.full, {}, options.out / "models" / "full")}
    models |= {f"blind to it, {name}": with_guidance(options.one_way, values, options.out / "models" / str(number))
               for number, (name, values) in enumerate(GUIDANCES.items())}
    scores: dict[str, list[Any]] = {}
    for number, (name, model) in enumerate(models.items()):
        if options.only is None or number in options.only:
            scores[name] = [rows_of(suite, model, options.out, options.limit) for suite in options.suites]
    if options.only is not None:
        return
    seconds = timed(models)
    first, *_ = models
    lines = [f"| references | {' | '.join(f'{suite} | against the first' for suite in options.suites)} | time |",
             "|---|" + "---|---|" * len(options.suites) + "---|"]
    for name in models:
        cells = [name]
        for rows, others in zip(scores[name], scores[first], strict=True):
            values, against = (per_storyboard(part, "t_iou") for part in (rows, others))
            paired = compare_paired(values, against)
            cells += [f"{values.mean():.3f}", "" if name == first else
                      f"{paired.difference:+.3f} ({paired.interval[0]:+.3f} to {paired.interval[1]:+.3f})"]
        ratios = [one / other for one, other in zip(seconds[name], seconds[first], strict=True)]
        lines.append(f"| {' | '.join(cells)} | {statistics.median(ratios):.2f} |")
    print("\n".join(lines))


def with_guidance(model: Path, guidance: dict[str, Any], folder: Path) -> Path:
    """Return a folder with the model and some of its guidance changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    index = json.loads((model / "model_index.json").read_text())
    media.write_text(folder / "model_index.json", json.dumps({**index, "guidance": index["guidance"] | guidance}))
    return folder


def rows_of(suite: str, model: Path, out: Path, limit: int) -> list[Any]:
    """Return the scored rows of a model's videos of a suite."""
    run = out / suite / model.name
    for arguments in (("run", "--suite", suite, "--model", model, "--out", run, "--limit", limit), ("score", run)):
        subprocess.run([sys.executable, "-m", "alchemint", "s2vtime", *map(str, arguments)], check=True,
                       stdout=subprocess.DEVNULL)
    report = out / suite / f"{model.name}-report"
    subprocess.run([sys.executable, "-m", "alchemint", "s2vtime", "report", str(run), "--out", str(report)], check=True,
                   stdout=subprocess.DEVNULL)
    (rows,) = json.loads((report / "report.json").read_text())["rows"].values()
    assert isinstance(rows, list)
    return rows[:limit]


def timed(models: dict[str, Path]) -> dict[str, list[float]]:
    """Return the seconds of the same few videos by each model, one after the other."""
    from alchemint.s2vtime.suite import load_suite

    boards = [entry.storyboard for entry in load_suite("toy-dual").entries[:NUM_TIMED]]
    pipelines = {name: load_pipeline(find_model(str(model)), "cpu", "float32") for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for board in [boards[0], *boards]:
        for name, pipeline in pipelines.items():
            begun = time.perf_counter()
            pipeline(board, generator=torch.Generator().manual_seed(0))
            seconds[name].append(time.perf_counter() - begun)
    return {name: values[1:] for name, values in seconds.items()}


if __name__ == "__main__":
    main()
