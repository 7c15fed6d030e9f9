"""From rows to a table: means with intervals, the baselines that every score is to be read beside, and comparisons.

    always on    every subject seen in every frame: what t-IoU gives for nothing
    shuffled     the system's own sightings against another storyboard's intervals: what is right by chance

A storyboard counts once, however many subjects it has. One whose video failed counts as one whose subjects are never
seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alchemint import timeline
from alchemint.s2vtime import metrics
from alchemint.s2vtime.scoring import Row, timing


@dataclass(frozen=True)
class Metric:
    """A column of the table: how it is read from a subject's row, and whether more is better (None: neither)."""

    title: str
    value: Callable[[Row], float | None]
    more_is_better: bool | None
    when_failed: float | None = None


def _stored(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else float(row[name])


def _size(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else abs(row[name])


METRICS = {
    "t_iou": Metric("t-IoU", _stored("t_iou"), True, 0.0),
    "t_l2": Metric("t-L2", _stored("t_l2"), False, 1.0),
    "presence_f1": Metric("presence F1", _stored("presence_f1"), True, 0.0),
    "never_seen": Metric("never seen", _stored("never_seen"), False, 1.0),
    "leak_rate": Metric("leak", _stored("leak_rate"), False),
    "swap_rate": Metric("swap", _stored("swap_rate"), False),
    "onset_error_s": Metric("onset error, s", _size("onset_error_s"), False),
    "offset_error_s": Metric("offset error, s", _size("offset_error_s"), False),
    "clip_text": Metric("CLIPtext", _stored("clip_text"), True),
    "clip_ref": Metric("CLIPref", _stored("clip_ref"), True),
    "retrieval": Metric("retrieval", lambda row: None if row["retrieval_rank"] is None
                        else float(row["retrieval_rank"] == 0), True),
}
OF_TIMING = ("t_iou", "t_l2", "presence_f1", "never_seen", "leak_rate", "onset_error_s", "offset_error_s")
"""What the baselines have, too: they were never looked at."""

VIDEO_METRICS = {"flow": "flow, widths/s", "flicker": "flicker"}


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval, over `count` storyboards."""

    mean: float
    low: float
    high: float
    count: int


def estimate(values: np.ndarray) -> Estimate | None:
    """Return the mean of values (storyboards) and its interval, NaN left out; None when nothing is left."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return Estimate(float(known.mean()), *metrics.bootstrap_interval(known), len(known))


def per_storyboard(rows: list[Row], name: str) -> np.ndarray:
    """Return a metric's mean over each storyboard's subjects (storyboards), NaN where none has it."""
    metric = METRICS[name]
    means = []
    for row in rows:
        if row["status"] != "ok":
            values = [metric.when_failed]
        else:
            values = [metric.value(subject) for subject in row["subjects"]]
        known = [value for value in values if value is not None]
        means.append(np.mean(known) if known else np.nan)
    return np.array(means, float)


def summarise(rows: list[Row]) -> dict[str, Estimate | None]:
    """Return the estimate of every metric of subjects and of whole videos."""
    made = [row["video"] for row in rows if row["status"] == "ok"]
    return {**{name: estimate(per_storyboard(rows, name)) for name in METRICS},
            **{name: estimate(np.array([video[name] for video in made], float)) for name in VIDEO_METRICS}}


def always_on(rows: list[Row]) -> list[Row]:
    """Return the rows of a system that shows every subject in every frame."""
    return [_with_sightings(row, [[(0, row["video"]["num_frames"] - 1)] for _ in row["subjects"]])
            for row in rows if row["status"] == "ok"]


def shuffled(rows: list[Row]) -> list[Row]:
    """Return the rows with each subject's sightings taken from the next storyboard's subject of the same number."""
    made = [row for row in rows if row["status"] == "ok" and row["subjects"]]
    return [_with_sightings(row, [_fitted(other["subjects"][number % len(other["subjects"])]["seen"], other, row)
                                  for number in range(len(row["subjects"]))])
            for row, other in zip(made, made[1:] + made[:1], strict=True)]


def _fitted(runs: list[list[int]], theirs: Row, ours: Row) -> list[timeline.Frames]:
    """Return runs of frames of one video, scaled to the length of another."""
    scale = ours["video"]["num_frames"] / theirs["video"]["num_frames"]
    return [(int(first * scale), min(int((last + 1) * scale), ours["video"]["num_frames"]) - 1) for first, last in runs]


def _with_sightings(row: Row, seen: list[list[timeline.Frames]]) -> Row:
    """Return the row as if the subjects had been seen in these runs of frames; only what is `OF_TIMING` is filled."""
    num_frames, fps = row["video"]["num_frames"], row["video"]["fps"]
    subjects = []
    for subject, runs in zip(row["subjects"], seen, strict=True):
        asked = metrics.presence([(first, last) for first, last in subject["asked"]], num_frames)
        subjects.append({**dict.fromkeys(subject), "name": subject["name"], "asked": subject["asked"], "seen": runs,
                         **timing(asked, metrics.presence(runs, num_frames), fps)})
    return {**row, "subjects": subjects}
