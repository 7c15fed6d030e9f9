"""A limit to the time that a function may take, in any thread."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class TimeLimitError(Exception):
    """A function did not end in time."""


class _Interrupted(BaseException):
    """Raised from outside in a thread; no function's `except Exception` swallows it."""


def within(limit_s: float | None, function: Callable[[Given], Made], given: Given) -> Made:
    """Return what a function makes of what it is given. Raises TimeLimitError where it takes more than `limit_s` s.

    The function ends between two of its Python instructions: one that never returns from foreign code is not stopped.
    """
    if limit_s is None:
        return function(given)
    thread, lock, running = threading.get_ident(), threading.Lock(), [True]

    def ring() -> None:
        with lock:
            if running[0]:
                interrupt(thread)

    timer = threading.Timer(limit_s, ring)
    timer.daemon = True
    try:
        timer.start()
        try:
            return function(given)
        finally:
            with lock:
                running[0] = False
            _raise_in(thread, None)
            timer.cancel()
    except _Interrupted:
        timer.cancel()
        raise TimeLimitError(f"it took longer than the {limit_s:g} s that are allowed; cut the video into shorter "
                             "clips, or raise the limit") from None


def interrupt(thread: int) -> None:
    """Have a thread, by its `ident`, end what it is doing."""
    _raise_in(thread, _Interrupted)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an exception at its next Python instruction; None takes back one that it has not raised."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)
