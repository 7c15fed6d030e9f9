"""The reference gate (experimental): t-IoU of a model with untimed references, with and without a gate, in one run.

    python benchmarks/reference_gate.py --model runs/toy-untimed/export [--boards 24] [--strengths 2 4 8]

Each storyboard of a shipped suite is sampled with the same noise at every strength, and judged by the toy perception.
Printed is a Markdown table: means, and the difference to no gate on the same storyboards, each with its 95 %
bootstrap interval. "always on" is what a subject that is seen in every frame would get for nothing. OUT also gets
table.md, rows.json and a contact sheet of each of the first two storyboards at each strength.

The model is to be one that was trained so, such as toy, continued without intervals; where the package lies in src:

    alchemint train configs/toy.yaml model.interval_encoding=untimed init_from=src/alchemint/assets/toy \\
        vae=src/alchemint/assets/toy/vae clips.stills_share=0.2 clips.own_frame_share=0.2 run.steps=500 seed=7 \\
        output=runs/toy-untimed
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from alchemint import media, sheet
from alchemint.cli.models import TOY, find_model, load_pipeline
from alchemint.cli.perceptions import load_toy, toy_edition
from alchemint.pipeline import AlchemintPipeline
from alchemint.s2vtime import summary
from alchemint.s2vtime.metrics import compare_paired
from alchemint.s2vtime.scoring import Judge, Row
from alchemint.s2vtime.suite import Entry, Suite, load_suite

COLUMNS = ("t_iou", "presence_f1", "leak_rate", "never_seen", "onset_error_s", "offset_error_s", "clip_ref")
NUM_SHEETS = 2


def main() -> None:
    """Sample and judge every storyboard at every strength; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TOY)
    parser.add_argument("--suite", default="toy-single")
    parser.add_argument("--boards", type=int, default=24, help="how many storyboards, from the first")
    parser.add_argument("--strengths", type=float, nargs="+", default=[2.0, 4.0, 8.0], help="beside no gate")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("out/reference_gate"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipeline = load_pipeline(find_model(arguments.model), "cpu", "float32")
    suite = load_suite(arguments.suite)
    entries = suite.entries[:arguments.boards]
    judge = judge_of(suite)
    strengths = [0.0, *sorted(set(arguments.strengths) - {0.0})]
    rows: dict[float, list[Row]] = {strength: [] for strength in strengths}
    started = time.perf_counter()
    for number, entry in enumerate(entries):
        for strength in strengths:
            path = arguments.out / f"{entry.id}-gate-{strength:g}.png" if number < NUM_SHEETS else None
            rows[strength].append(scored(pipeline, judge, entry, strength, arguments.steps, path))
        print(f"{number + 1} of {len(entries)} storyboards, {time.perf_counter() - started:.0f} s", file=sys.stderr,
              flush=True)
    lines = table(rows, suite, pipeline.transformer.config.interval_encoding, arguments.model, arguments.steps)
    media.write_text(arguments.out / "rows.json", json.dumps({f"{name:g}": found for name, found in rows.items()}))
    media.write_text(arguments.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def judge_of(suite: Suite) -> Judge:
    """Return the toy perception as a judge."""
    watcher, clip = load_toy()
    return Judge(f"toy-{toy_edition()}", lambda video, sought: watcher.look(video, sought).masks, clip, suite)


def scored(pipeline: AlchemintPipeline, judge: Judge, entry: Entry, strength: float, steps: int,
           sheet_path: Path | None) -> Row:
    """Make a storyboard's video with its own seed, 0 where it has none, and return its scores."""
    board = entry.storyboard.resolve(pipeline.defaults)
    assert board.fps is not None
    video = media.as_uint8(pipeline(board, num_inference_steps=steps, reference_gate=strength,
                                    generator=torch.Generator("cpu").manual_seed(board.seed or 0))[0][0])
    if sheet_path is not None:
        media.write_image(sheet_path, sheet.contact_sheet(video, board.fps, sheet.bars_of(board), board.prompt,
                                                          f"reference gate {strength:g}"))
    return judge.score(video, board.fps, entry)


def table(rows: dict[float, list[Row]], suite: Suite, encoding: str, model: str, steps: int) -> list[str]:
    """Return the lines of the table, and what it was made with."""
    titles = [summary.METRICS[name].title for name in COLUMNS]
    lines = [f"| gate | {' | '.join(titles)} | t-IoU, to no gate | p |", "|---|" + "---:|" * (len(COLUMNS) + 2)]
    none = summary.per_storyboard(rows[0.0], "t_iou")
    for strength, found in rows.items():
        if strength:
            compared = compare_paired(summary.per_storyboard(found, "t_iou"), none)
            low, high = compared.interval
            against = f"{compared.difference:+.3f} [{low:+.3f}, {high:+.3f}] | {compared.p_value:.3f}"
        else:
            against = "|"
        lines.append(f"| {f'{strength:g}' if strength else 'none'} | {cells(found)} | {against} |")
    lines.append(f"| *always on* | {cells(summary.always_on(rows[0.0]))} | | |")
    return [*lines, "", f"{model} ({encoding}), {steps} steps, the first {len(none)} storyboards of {suite.about.name} "
            f"({suite.sha256[:12]}), judged by toy-{toy_edition()}; mean ± half the 95 % interval, and paired "
            "differences with theirs."]


def cells(rows: list[Row]) -> str:
    """Return the means of a row's columns with half their intervals."""
    return " | ".join(cell(rows, name) for name in COLUMNS)


def cell(rows: list[Row], name: str) -> str:
    """Return a mean and half its interval, nothing where no video has the number."""
    estimate = summary.estimate(summary.per_storyboard(rows, name))
    return "" if estimate is None else f"{estimate.mean:.3f} ±{(estimate.high - estimate.low) / 2:.3f}"


if __name__ == "__main__":
    main()
