"""`alchemint s2vtime`: run a system on a suite, score its videos, report."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alchemint.cli.models import DeviceOption
from alchemint.cli.progress import progress
from alchemint.cli.s2vtime_build import build
from alchemint.cli.systems import OURS, SYSTEM_HELP

if TYPE_CHECKING:
    from alchemint.s2vtime.runs import Mapper
    from alchemint.s2vtime.scoring import Judge
    from alchemint.s2vtime.spread import DeferredJudge
    from alchemint.s2vtime.suite import Suite

Perception = Literal["toy", "grounded-sam2"]

SuiteOption = Annotated[str, typer.Option(help="A shipped suite's name, or a folder.", show_default=False)]
RayOption = Annotated[str | None, typer.Option(
    "--ray", metavar="ADDRESS", show_default=False,
    help="Spread over a Ray cluster: its address, auto for the one that this machine is in, local for a new one here.")]
WorkersOption = Annotated[int | None, typer.Option(
    min=1, show_default=False, help="Workers on the cluster.  [default: one for each GPU, or CPU where it has none]")]


def suites() -> None:
    """List the suites that the package ships."""
    from alchemint.s2vtime.suite import load_suite, names_of_shipped

    for name in names_of_shipped():
        suite = load_suite(name)
        typer.echo(f"{name:13} {len(suite.entries):4} storyboards, version {suite.about.version}, "
                   f"{suite.sha256[:12]}: {suite.about.description}")


def run(
    suite: SuiteOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again continues it.",
                                      show_default=False)],
    system: Annotated[str, typer.Option(help=f"{SYSTEM_HELP}.")] = OURS,
    model: Annotated[str | None, typer.Option(help="Weights: toy, a folder, or a name on the hub.  [default: toy, or "
                                              "the peer's own]", show_default=False)] = None,
    command: Annotated[str | None, typer.Option(help="Any program in place of a system: a command line with "
                                                "{storyboard} and {output} for files, {seed} for the seed.",
                                                show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.  [default: 40; peers 50]",
                                              show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first storyboards of the suite, to try things.",
                                              show_default=False)] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed before.")] = False,
    device: DeviceOption = "auto",
    ray: RayOption = None,
    workers: WorkersOption = None,
) -> None:
    """Make the videos of a suite."""
    from alchemint.cli.allocator import keep_memory
    from alchemint.cli.systems import find_system
    from alchemint.s2vtime.runs import make_videos, open_run
    from alchemint.s2vtime.suite import load_suite
    from alchemint.s2vtime.systems import CommandSystem

    keep_memory()
    loaded = load_suite(suite)
    under_test = CommandSystem(command) if command else find_system(system, model, steps, device)
    opened = open_run(out, loaded, under_test)
    entries = loaded.entries[:limit]
    mapper = _mapper(ray, workers)
    before = sum(opened.video(entry).is_file() for entry in entries)
    given_up = 0 if retry else sum(opened.made(entry).is_file() for entry in entries) - before
    if before:
        typer.echo(f"{before} of {len(entries)} videos are there already")
    if given_up:
        typer.echo(f"{given_up} could not be made before; --retry tries them again")
    failed = 0
    rows = make_videos(opened, under_test, mapper, retry=retry, entries=entries)
    for row in progress(rows, len(entries) - before - given_up, "making"):
        if row["status"] != "made":
            failed += 1
            typer.echo(f"{row['id']}: {row['reason']}", err=True)
    there = sum(opened.video(entry).is_file() for entry in entries)
    typer.echo(f"{there} of {len(entries)} videos in {out}" + (f"; {failed} failed" if failed else ""))


def score(
    folder: Annotated[Path, typer.Argument(help="A run, or any folder with <id>.mp4 for the ids of --suite.",
                                           show_default=False)],
    suite: Annotated[str | None, typer.Option(help="A shipped suite's name, or a folder.  [default: the run's own]",
                                              show_default=False)] = None,
    perception: Annotated[Perception, typer.Option(help="Who looks: toy for toyworld videos, grounded-sam2 (Grounding "
                                                   "DINO, CLIP, SAM 2) for all others.")] = "toy",
    detector: Annotated[str | None, typer.Option(help="Grounding DINO's weights.", show_default=False)] = None,
    comparer: Annotated[str | None, typer.Option(help="CLIP's weights.", show_default=False)] = None,
    tracker: Annotated[str | None, typer.Option(help="SAM 2's weights.", show_default=False)] = None,
    device: DeviceOption = "auto",
    ray: RayOption = None,
    workers: WorkersOption = None,
) -> None:
    """Measure the videos of a run; what is scored already is left alone."""
    from alchemint.cli.allocator import keep_memory
    from alchemint.cli.models import pick_device
    from alchemint.s2vtime.runs import find_run, score_videos

    keep_memory()
    found = find_run(folder, suite)
    weights = {name: value for name, value in
               {"detector": detector, "comparer": comparer, "tracker": tracker}.items() if value is not None}
    judge = _judge(perception, found.suite, weights, pick_device(device))
    failed = 0
    for row in progress(score_videos(found, judge, _mapper(ray, workers)), len(found.suite.entries), "scoring"):
        if row["status"] != "ok":
            failed += 1
            typer.echo(f"{row['id']}: {row['reason']}", err=True)
    _print_summary(found, judge.name)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Scored runs of one suite.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for index.html, report.md and report.json.")] = Path("report"),
    suite: Annotated[str | None, typer.Option(help="A shipped suite's name, or a folder.  [default: the runs' own]",
                                              show_default=False)] = None,
    judge: Annotated[str | None, typer.Option(help="Whose scores.  [default: the one who scored them all]",
                                              show_default=False)] = None,
) -> None:
    """Write tables, plots and every storyboard's frames of one run, or of several side by side."""
    from alchemint.s2vtime.report import Scored, write_report
    from alchemint.s2vtime.runs import find_run, judges_of, read_scores

    found = [find_run(folder, suite) for folder in runs]
    common = sorted(set.intersection(*(set(judges_of(one)) for one in found)))
    if judge is None and len(common) != 1:
        raise ValueError(f"the runs have {len(common)} judges in common ({', '.join(common) or 'none'}); "
                         + ("choose one with --judge" if common else "score them with the same perception first"))
    name = judge or common[0]
    page = write_report([Scored(one, read_scores(one, name)) for one in found], name, out)
    typer.echo((out / "report.md").read_text(encoding="utf-8"))
    typer.echo(f"{page} shows it with every storyboard")


s2vtime: dict[str, Callable[..., None]] = {
    "suites": suites, "run": run, "score": score, "report": report, "build": build}


def _mapper(address: str | None, workers: int | None) -> "Mapper":
    from alchemint.s2vtime.runs import in_this_process
    from alchemint.s2vtime.spread import over_ray

    if address is None and workers is not None:
        raise ValueError("--workers needs --ray; without it one process does the work")
    return in_this_process if address is None else over_ray(address, workers)


def _judge(perception: Perception, suite: "Suite", weights: dict[str, str], device: str) -> "DeferredJudge":
    """Return the judge, unloaded."""
    from alchemint.cli.perceptions import toy_edition
    from alchemint.s2vtime.spread import DeferredJudge

    if perception == "toy":
        if weights:
            raise ValueError(f"--{next(iter(weights))} is of --perception grounded-sam2")
        name = f"toy-{toy_edition()}"
        return DeferredJudge(name, partial(_toy_judge, name, suite))
    others = ", ".join(f"{part} {source}" for part, source in weights.items())
    name = f"grounded-sam2 with {others}" if others else "grounded-sam2"
    return DeferredJudge(name, partial(_grounded_judge, name, suite, weights, device))


def _toy_judge(name: str, suite: "Suite") -> "Judge":
    from alchemint.cli.perceptions import load_toy
    from alchemint.s2vtime.scoring import Judge

    watcher, clip = load_toy()
    return Judge(name, lambda video, sought: watcher.look(video, sought).masks, clip, suite)


def _grounded_judge(name: str, suite: "Suite", weights: dict[str, str], device: str) -> "Judge":
    from alchemint.perception.loading import load_grounded_sam2
    from alchemint.s2vtime.scoring import Judge

    watcher = load_grounded_sam2(**weights, device=device)
    assert watcher.comparer is not None
    return Judge(name, lambda video, sought: watcher.look(video, sought).masks, watcher.comparer, suite)


def _print_summary(run: Any, judge: str) -> None:
    from alchemint.s2vtime import summary
    from alchemint.s2vtime.runs import read_scores

    rows = read_scores(run, judge)
    shown = summary.summarise(rows)
    baseline = summary.summarise(summary.always_on(rows))
    typer.echo(f"{run.system} on {run.suite.about.name} ({run.suite.sha256[:12]}), judged by {judge}: "
               f"{sum(row['status'] == 'ok' for row in rows)} of {len(rows)} videos")
    titles = {name: metric.title for name, metric in summary.METRICS.items()} | summary.VIDEO_METRICS
    for name, title in titles.items():
        value, always = shown[name], baseline.get(name)
        if value is not None:
            beside = f"   always on {always.mean:.3f}" if always is not None and name in summary.OF_TIMING else ""
            typer.echo(f"  {title:16} {value.mean:7.3f}   [{value.low:.3f}, {value.high:.3f}]{beside}")
