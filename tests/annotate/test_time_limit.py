"""Limits of time: kept in any thread, and nothing of them is left behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from alchemint.annotate.time_limit import TimeLimitError, within


def spin(seconds: float) -> float:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.001)
        except Exception:  # what a stage swallows must not be the interruption
            continue
    return seconds


def test_what_takes_too_long_is_ended_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as threads:
        for call in (within, lambda *given: threads.submit(within, *given).result()):
            began = time.monotonic()
            with pytest.raises(TimeLimitError, match=r"longer than the 0\.1 s"):
                call(0.1, spin, 20.0)
            assert time.monotonic() - began < 5
            assert call(20.0, spin, 0.01) == 0.01
            assert call(None, spin, 0.01) == 0.01


def test_the_function_s_own_errors_pass() -> None:
    def broken(_: int) -> None:
        raise KeyError("fog")

    with pytest.raises(KeyError, match="fog"):
        within(10.0, broken, 1)


def test_nothing_strikes_later() -> None:
    """Ends at about the limit, over and over: either a value or the error, and quiet afterwards."""
    ended = {"made": 0, "late": 0}
    for number in range(150):
        try:
            within(0.004, spin, 0.003 + 0.002 * (number % 10) / 10)
            ended["made"] += 1
        except TimeLimitError:
            ended["late"] += 1
        spin(0.001)
    assert all(ended.values())
    time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
