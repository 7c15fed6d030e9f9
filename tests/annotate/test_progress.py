"""What is told of a run agrees with what was counted."""

import pickle
import threading
import time

import pytest

from alchemint.annotate import progress
from alchemint.annotate.progress import Tally, line, shown, summary
from alchemint.records import Dropped, FailedClip


def failed(reason: str, stage: str = "find", *dropped: str) -> FailedClip:
    return FailedClip(clip_id="a", source="a", video="a", stage=stage, reason=reason,
                      dropped=tuple(Dropped(word="it", filter=name) for name in dropped))


def test_rate_occupancy_and_rest_follow_from_the_counts() -> None:
    tally = Tally(num_files=100, files_before=20)
    tally.begin({"cut": 1, "find": 2})
    tally.began = time.monotonic() - 50
    tally.files_done = 20
    tally.clips.update({"ok": 90, "failed": 10})
    tally.seconds.update({"cut": 5.0, "find": 80.0})
    tally.end()
    assert tally.occupancy == pytest.approx({"cut": 0.1, "find": 0.8}, rel=1e-2)
    assert tally.left_s == pytest.approx(150, rel=1e-2)
    assert line(tally) == ("40 of 100 files, 100 clips (10 failed), 2.00 clips/s, 0:02:30 left; "
                           "busy: cut 10%, find 80%")


def test_nothing_is_foretold_before_a_file_is_done() -> None:
    tally = Tally(num_files=3)
    assert tally.left_s is None and "left" not in line(tally)


def test_reasons_of_one_kind_are_counted_together() -> None:
    tally = Tally()
    for number in range(5):
        tally.count(failed(f'/data/{number}.mp4 holds no frame {number} of "clip {number}"', "cut", "area"))
    for number in range(20):
        tally.count(failed(f"reason {'abcdefghijklmnopqrst'[number]}", "find", "area", "blur"))
    lines = summary(tally)
    assert lines[1] == '  failed: 5 x cut: ... holds no frame N of "..."'
    assert sum(told.startswith("  failed: 1 x find: reason") for told in lines) == 11
    assert "  failed: 9 more of 9 kinds" in lines
    assert lines[-2:] == ["  words dropped: 25 x area", "  words dropped: 20 x blur"]


def test_what_other_processes_have_counted_is_added() -> None:
    one, two = Tally(files_done=1), Tally(files_done=2)
    one.count(failed("fog", "find", "area"))
    two.count(failed("fog", "find", "area"))
    two.seconds["find"] += 1.5
    one.add(pickle.loads(pickle.dumps(two)))
    assert (one.files_done, one.clips["failed"], one.dropped["area"]) == (3, 2, 2)
    assert one.failures == {("find", "fog"): 2} and one.seconds == {"find": 1.5}


def test_without_a_terminal_a_line_comes_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.05)
    threads = threading.active_count()
    with shown(Tally(num_files=7)):
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) <= 6 and all(told.startswith("0 of 7 files") for told in said)
    assert threading.active_count() == threads
