"""S2VTime of the toy model: every figure of docs/s2vtime.md and of README, by the package's own commands.

    python benchmarks/s2vtime_toy.py [--model toy] [--out out/s2vtime]      # an hour on two cores; resumable
    python benchmarks/s2vtime_toy.py --suites toy-single toy-dual --limit 64

For each of the four shipped suites: the clips themselves (truth), the same through the model's VAE (the most that a
transformer can reach with it), and the model's videos; scored, reported in OUT/<suite>/report, and printed as one
Markdown table with the baselines (with --limit N in OUT/<suite>-N). OUT also gets contact sheets of the model's first
two videos of each suite.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alchemint import media, sheet
from alchemint.s2vtime.runs import find_run
from alchemint.s2vtime.suite import SHIPPED, load_suite, write_suite

SUITES = ("toy-single", "toy-dual", "toy-quad", "toy-similar")
SYSTEMS = ("truth", "truth-vae", "alchemint")
COLUMNS = {"t_iou": "t-IoU", "t_l2": "t-L2", "presence_f1": "presence F1", "never_seen": "never seen",
           "leak_rate": "leak", "swap_rate": "swap", "onset_error_s": "onset, s", "offset_error_s": "offset, s",
           "clip_text": "CLIPtext", "clip_ref": "CLIPref", "retrieval": "retrieval of 16", "flow": "flow",
           "flicker": "flicker"}
NUM_SHEETS = 2


def main() -> None:
    """Run, score, report, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--out", type=Path, default=Path("out/s2vtime"))
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--limit", type=int, help="only the first storyboards of each suite, as a suite of their own")
    arguments = parser.parse_args()
    rows = [f"| {' | '.join(['suite', '', *COLUMNS.values()])} |", "|---|---|" + "---:|" * len(COLUMNS)]
    for suite in arguments.suites:
        name = suite if arguments.limit is None else f"{suite}-{arguments.limit}"
        asked = suite if arguments.limit is None else beginning(suite, arguments.limit, arguments.out / "suites" / name)
        runs = [arguments.out / name / system for system in SYSTEMS]
        for system, run in zip(SYSTEMS, runs, strict=True):
            weights = [] if system == "truth" else ["--model", arguments.model]
            steps = ["--steps", str(arguments.steps)] if system == "alchemint" else []
            made = timed("run", "--suite", asked, "--system", system, "--out", run, *weights, *steps)
            scored = timed("score", run)
            print(f"{suite} {system}: made in {made:.0f} s, scored in {scored:.0f} s", file=sys.stderr, flush=True)
        report = arguments.out / name / "report"
        timed("report", *runs, "--out", report)
        rows += table(suite, json.loads((report / "report.json").read_text()))
        write_sheets(runs[-1], arguments.out)
    print("\n".join(rows))
    media.write_text(arguments.out / "table.md", "\n".join(rows) + "\n")


def beginning(suite: str, count: int, folder: Path) -> Path:
    """Write the first storyboards of a shipped suite as a suite of their own into `folder`; return it."""
    shutil.copytree(SHIPPED / suite, folder, dirs_exist_ok=True)
    lines = (folder / "storyboards.jsonl").read_text(encoding="utf-8").splitlines()
    about = load_suite(suite).about
    write_suite(folder, about.model_copy(update={"name": f"{suite}-{count}"}), map(json.loads, lines[:count]))
    return folder


def timed(*arguments: object) -> float:
    """Run `alchemint s2vtime` with the arguments; return the seconds that it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "alchemint", "s2vtime", *map(str, arguments)], check=True,
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def table(suite: str, report: dict[str, Any]) -> list[str]:
    """Return the table's lines of one suite."""
    names = {"truth": "clips", "truth-vae": "clips through the VAE", "alchemint": "toy",
             "alchemint, shuffled": "toy, shuffled", "always on": "always on"}
    return [f"| {' | '.join([suite, title, *(cell(report['systems'][name].get(column)) for column in COLUMNS)])} |"
            for name, title in names.items()]


def cell(estimate: dict[str, float] | None) -> str:
    """Return a mean and half its interval."""
    return "" if estimate is None else f"{estimate['mean']:.3f} ±{(estimate['high'] - estimate['low']) / 2:.3f}"


def write_sheets(folder: Path, out: Path) -> None:
    """Write contact sheets of a run's first videos."""
    run = find_run(folder)
    for entry in run.suite.entries[:NUM_SHEETS]:
        video, fps = media.read_video(run.video(entry))
        board = entry.storyboard
        media.write_image(out / f"{entry.id}.png", sheet.contact_sheet(video, fps, sheet.bars_of(board), board.prompt))


if __name__ == "__main__":
    main()
