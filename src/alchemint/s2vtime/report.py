"""Scores to read: one self-contained page, a Markdown table for papers, JSON for machines.

    <report>/index.html    tables, plots, and every storyboard's frames with its asked and seen intervals
    <report>/report.md
    <report>/report.json
"""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alchemint import media
from alchemint.s2vtime import metrics, summary
from alchemint.s2vtime.runs import Run
from alchemint.s2vtime.scoring import Row
from alchemint.s2vtime.suite import Entry

NUM_THUMBNAILS, THUMBNAIL_WIDTH = 9, 128
_MAX_SHOWN = 100
_COMPARED = ("t_iou", "presence_f1", "clip_ref")
_COLOURS = ("#2f6fdb", "#e0662f", "#2a9d62", "#8e5bd0", "#b58a15", "#c2416b")


@dataclass(frozen=True)
class Scored:
    """A run with the rows of all its storyboards."""

    run: Run
    rows: list[Row]

    @property
    def name(self) -> str:
        """The name by which the report calls it: the system's, and the run's folder where that has another name."""
        folder = self.run.folder.resolve().name
        return self.run.system if folder == self.run.system else f"{self.run.system} ({folder})"


def write_report(scored: Sequence[Scored], judge: str, folder: Path) -> Path:
    """Write the report of runs of one suite into `folder`; return the page's path.

    Raises ValueError when the runs are not of the same edition of one suite.
    """
    if len(hashes := {one.run.suite.sha256 for one in scored}) > 1:
        raise ValueError(f"the runs are of {len(hashes)} different suites or editions; report each suite by itself")
    lines = _lines(scored)
    comparisons = _comparisons(scored)
    suite = scored[0].run.suite
    media.write_text(folder / "report.json", json.dumps({
        "suite": {**suite.about.model_dump(), "sha256": suite.sha256}, "judge": judge,
        "systems": {name: {metric: None if value is None else asdict(value) for metric, value in table.items()}
                    for name, table, _, _ in lines},
        "comparisons": comparisons,
        "rows": {one.name: one.rows for one in scored}}, indent=1))
    media.write_text(folder / "report.md", _markdown(scored, lines, judge))
    media.write_text(folder / "index.html", _page(scored, lines, comparisons, judge))
    return folder / "index.html"


_Line = tuple[str, dict[str, summary.Estimate | None], int, bool]
"""Name, estimates, number of failed storyboards, whether it is a baseline."""


def _lines(scored: Sequence[Scored]) -> list[_Line]:
    lines: list[_Line] = []
    for one in scored:
        failed = sum(row["status"] != "ok" for row in one.rows)
        lines.append((one.name, summary.summarise(one.rows), failed, False))
        lines.append((f"{one.name}, shuffled", _timing(summary.shuffled(one.rows)), 0, True))
    lines.append(("always on", _timing(summary.always_on(scored[0].rows)), 0, True))
    return lines


def _timing(rows: list[Row]) -> dict[str, summary.Estimate | None]:
    return {name: summary.estimate(summary.per_storyboard(rows, name)) for name in summary.OF_TIMING}


def _comparisons(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    found = []
    for first, second in combinations(scored, 2):
        for name in _COMPARED:
            values = np.stack([summary.per_storyboard(one.rows, name) for one in (first, second)])
            ours, theirs = values[:, ~np.isnan(values).any(0)]
            if len(ours) > 1:
                found.append({"first": first.name, "second": second.name, "metric": name,
                              **asdict(metrics.compare_paired(ours, theirs))})
    return found


def _markdown(scored: Sequence[Scored], lines: list[_Line], judge: str) -> str:
    suite = scored[0].run.suite
    titles = [summary.METRICS[name].title for name in summary.METRICS] + list(summary.VIDEO_METRICS.values())
    rows = [["system", *titles, "failed"], ["---"] + ["---:"] * (len(titles) + 1)]
    for name, table, failed, _ in lines:
        cells = [table.get(metric) for metric in (*summary.METRICS, *summary.VIDEO_METRICS)]
        rows.append([name, *("" if cell is None else f"{cell.mean:.3f} ±{_half(cell):.3f}" for cell in cells),
                     str(failed) if failed else ""])
    table_text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (f"S2VTime, suite {suite.about.name} version {suite.about.version} ({len(suite.entries)} storyboards, hash "
            f"`{suite.sha256[:16]}`), judge `{judge}`.\n\n{table_text}\n")


def _half(cell: summary.Estimate) -> float:
    return (cell.high - cell.low) / 2


def _page(scored: Sequence[Scored], lines: list[_Line], comparisons: list[dict[str, Any]], judge: str) -> str:
    from jinja2 import Environment

    suite = scored[0].run.suite
    columns = [(name, metric.title, metric.more_is_better) for name, metric in summary.METRICS.items()]
    columns += [(name, title, None) for name, title in summary.VIDEO_METRICS.items()]
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True).from_string(template).render(
        suite=suite.about, sha256=suite.sha256, judge=judge, num_entries=len(suite.entries),
        num_thumbnails=NUM_THUMBNAILS,
        columns=[{"title": title, "arrow": {True: " ↑", False: " ↓", None: ""}[better]}
                 for _, title, better in columns],
        table=[{"name": name, "failed": failed or "", "baseline": baseline, "cells": [
            _cell(table.get(metric), better, [other.get(metric) for _, other, _, is_baseline in lines
                                              if not is_baseline], baseline)
            for metric, _, better in columns]} for name, table, failed, baseline in lines],
        comparisons=[{**one, "title": summary.METRICS[one["metric"]].title, "difference": f"{one['difference']:+.3f}",
                      "interval": "{:+.3f} … {:+.3f}".format(*one["interval"]), "p_value": f"{one['p_value']:.3f}"}
                     for one in comparisons],
        plots=[_onset_plot(scored), _length_plot(scored)],
        entries=[_shown(scored, number, entry) for number, entry in enumerate(suite.entries[:_MAX_SHOWN])])


def _cell(value: summary.Estimate | None, more_is_better: bool | None, all_values: list[summary.Estimate | None],
          is_baseline: bool) -> dict[str, Any]:
    if value is None:
        return {"mean": "", "half": "", "best": False}
    means = [other.mean for other in all_values if other is not None]
    best = more_is_better is not None and not is_baseline and len(means) > 1 and (
        value.mean == (max(means) if more_is_better else min(means)))
    return {"mean": f"{value.mean:.3f}", "half": f"{_half(value):.3f}", "best": best}


def _shown(scored: Sequence[Scored], number: int, entry: Entry) -> dict[str, Any]:
    """Return what the page shows of one storyboard: of each system its frames and its bars."""
    systems = []
    for one in scored:
        row = one.rows[number]
        systems.append({
            "system": one.name, "thumbnails": _thumbnails(one.run.video(entry)),
            "reason": row.get("reason", ""), "num_frames": row.get("video", {}).get("num_frames", 1),
            "subjects": [{**subject, "t_iou": f"{subject['t_iou']:.2f}"} for subject in row.get("subjects", ())]})
    return {"id": entry.id, "prompt": entry.storyboard.prompt, "systems": systems}


def _thumbnails(path: Path) -> list[str]:
    """Return frames of a video, evenly chosen, as data URIs; none of one that can't be read."""
    try:
        frames, _ = media.read_video(path)
    except (OSError, ValueError):
        return []
    images = []
    for index in np.linspace(0, len(frames) - 1, NUM_THUMBNAILS).round().astype(int):
        picture = Image.fromarray(frames[index])
        if picture.width > THUMBNAIL_WIDTH:
            picture = picture.resize((THUMBNAIL_WIDTH, round(picture.height * THUMBNAIL_WIDTH / picture.width)))
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=80)
        images.append(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")
    return images


def _onset_plot(scored: Sequence[Scored]) -> str:
    """Draw how much too early or late subjects come."""
    errors = [[subject["onset_error_s"] for subject in _subjects(one.rows) if subject["onset_error_s"] is not None]
              for one in scored]
    figure, axes = _figure("onset error, s (late is positive)", "subjects")
    reach = max([1e-6, *(abs(error) for row in errors for error in row)])
    axes.hist(errors, bins=np.linspace(-reach, reach, 21), label=[one.name for one in scored],
              color=[_COLOURS[number % len(_COLOURS)] for number in range(len(scored))])
    axes.legend(frameon=False)
    return _svg(figure)


def _length_plot(scored: Sequence[Scored]) -> str:
    """Draw t-IoU against the asked share of the video; the line is the always-on baseline."""
    figure, axes = _figure("asked share of the video", "t-IoU")
    for number, one in enumerate(scored):
        points = [(sum(last - first + 1 for first, last in subject["asked"]) / row["video"]["num_frames"],
                   subject["t_iou"]) for row in one.rows if row["status"] == "ok" for subject in row["subjects"]]
        axes.scatter(*zip(*points, strict=True) if points else ((), ()), s=16, alpha=0.65,
                     color=_COLOURS[number % len(_COLOURS)], label=one.name, linewidths=0)
    axes.plot([0, 1], [0, 1], color="#9aa1ab", linewidth=1, label="always on")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return _svg(figure)


def _subjects(rows: Iterable[Row]) -> list[Row]:
    return [subject for row in rows if row["status"] == "ok" for subject in row["subjects"]]


def _figure(x_title: str, y_title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg"):]
