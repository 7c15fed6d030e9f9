"""Tables of rows that are made by hand, against sums done by hand."""

from typing import Any

import numpy as np
import pytest

from alchemint.s2vtime import metrics, summary


def subject(asked: list[list[int]], seen: list[list[int]], num_frames: int = 25, **values: Any) -> dict[str, Any]:
    there, shown = (metrics.presence([(first, last) for first, last in runs], num_frames) for runs in (asked, seen))
    wanted, span = metrics.span(there), metrics.span(shown)
    assert wanted is not None
    return {"name": "fox", "word": "fox", "asked": asked, "seen": seen, "t_iou": metrics.t_iou(wanted, span),
            "t_l2": metrics.t_l2(wanted, span, num_frames), "never_seen": span is None,
            "presence_f1": metrics.presence_f1(there, shown), "leak_rate": metrics.leak_rate(there, shown),
            "swap_rate": None, "onset_error_s": metrics.onset_error_s(wanted, span, 6.0),
            "offset_error_s": metrics.offset_error_s(wanted, span, 6.0), "clip_text": 0.3, "clip_ref": 0.7,
            "retrieval_rank": 0, **values}


def row(*subjects: dict[str, Any], num_frames: int = 25, **values: Any) -> dict[str, Any]:
    return {"id": "a", "status": "ok", "subjects": list(subjects), **values, "video": {
        "num_frames": num_frames, "fps": 6.0, "width": 64, "height": 64, "flow": 0.2, "flicker": 0.01}}


FAILED = {"id": "b", "status": "failed", "reason": "no video"}


def test_a_storyboard_counts_once_and_a_failed_one_as_never_seen() -> None:
    rows = [row(subject([[0, 9]], [[0, 9]]), subject([[0, 9]], [])), row(subject([[0, 9]], [[5, 9]])), FAILED]
    assert summary.per_storyboard(rows, "t_iou").tolist() == [0.5, 0.5, 0.0]
    assert summary.per_storyboard(rows, "never_seen").tolist() == [0.5, 0.0, 1.0]
    assert summary.per_storyboard(rows, "t_l2")[2] == 1.0
    onset = summary.per_storyboard(rows, "onset_error_s")
    assert onset[:2].tolist() == pytest.approx([0.0, 5 / 6])
    assert np.isnan(onset[2])


def test_estimates_leave_out_what_is_not_there() -> None:
    rows = [row(subject([[0, 9]], [[0, 9]], onset_error_s=-0.5)), row(subject([[0, 9]], [])), FAILED]
    table = summary.summarise(rows)
    assert table["onset_error_s"] is not None
    assert (table["onset_error_s"].mean, table["onset_error_s"].count) == (0.5, 1)
    assert table["t_iou"] is not None
    assert table["t_iou"].mean == pytest.approx(1 / 3)
    assert table["t_iou"].low <= 1 / 3 <= table["t_iou"].high
    assert table["swap_rate"] is None
    assert table["flow"] is not None and table["flow"].count == 2
    assert table["retrieval"] is not None and table["retrieval"].mean == 1.0


def test_the_always_on_baseline_scores_the_asked_share() -> None:
    rows = [row(subject([[0, 4]], [])), row(subject([[5, 14], [20, 24]], [[1, 2]])), FAILED]
    found = summary.per_storyboard(summary.always_on(rows), "t_iou")
    assert found.tolist() == pytest.approx([5 / 25, 20 / 25])
    assert summary.per_storyboard(summary.always_on(rows), "leak_rate").tolist() == [1.0, 1.0]
    assert np.isnan(summary.per_storyboard(summary.always_on(rows), "clip_ref")).all()


def test_shuffled_sightings_are_the_next_storyboards() -> None:
    rows = [row(subject([[0, 9]], [[0, 9]])), FAILED, row(subject([[10, 19]], [[10, 19]])),
            row(subject([[0, 19]], [[0, 19]], 49), num_frames=49)]
    mixed = summary.shuffled(rows)
    assert [one["subjects"][0]["seen"] for one in mixed] == [[(10, 19)], [(0, 9)], [(0, 18)]]
    assert summary.per_storyboard(mixed, "t_iou").tolist() == pytest.approx([0.0, 0.0, 19 / 20])
