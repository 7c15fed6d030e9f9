"""Who listens, and what they have yet to hear: server-sent events about jobs.

A stream keeps only the ids of jobs that changed, and tells their latest state: however slow a browser is, what waits
for it never grows past one entry a job. A tab whose streams have all been closed for a while is gone, and its jobs are
stopped.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from alchemint.studio.jobs import JobRunner
from alchemint.studio.refusal import RefusalError

HEARTBEAT_S = 5.0
_POLL_S = 1.0


class Streams:
    """The streams of all tabs; all but `tell` is called in the event loop."""

    def __init__(self, most: int, grace_s: float) -> None:
        self._most, self._grace_s = most, grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: JobRunner | None = None
        self._pending: dict[asyncio.Event, dict[str, None]] = {}
        self._open: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._run = secrets.token_hex(4)
        self._closed = False

    def begin(self, runner: JobRunner) -> None:
        """Serve the jobs of `runner` from now on, in the event loop that runs."""
        self._runner, self._loop = runner, asyncio.get_running_loop()

    def end(self) -> None:
        """Let all streams end."""
        self._closed = True
        for handle in self._leaving.values():
            handle.cancel()
        for woken in self._pending:
            woken.set()

    def tell(self, job_id: str) -> None:
        """Note that a job has changed; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._note, job_id)

    def expect(self, client: str) -> None:
        """Stop a tab's jobs unless it opens a stream soon, or has one."""
        if client and not self._open[client] and self._loop is not None:
            self._leave(client)

    async def stream(self, client: str, last_event: str, is_gone: Callable[[], Awaitable[bool]]
                     ) -> AsyncIterator[str]:
        """Yield a tab's events: first what it has missed since `last_event`, then each change.

        is_gone: tells whether the browser has hung up. Raises RefusalError (503) when too many streams are open.
        """
        assert self._runner is not None, "call begin first"
        woken = asyncio.Event()
        pending = self._pending[woken] = dict.fromkeys(self._runner.changed_since(self._number(last_event)))
        self._open[client] += 1
        if (leaving := self._leaving.pop(client, None)) is not None:
            leaving.cancel()
        try:
            yield f"retry: 2000\n: {client[:64]}\n\n"
            silent_s = 0.0
            while not self._closed and not await is_gone():
                while pending:
                    job_id = next(iter(pending))
                    del pending[job_id]
                    yield self._event(job_id, is_last=not pending)
                    silent_s = 0.0
                woken.clear()
                try:
                    await asyncio.wait_for(woken.wait(), _POLL_S)
                except TimeoutError:
                    silent_s += _POLL_S
                if silent_s >= HEARTBEAT_S:
                    silent_s = 0.0
                    yield ": still here\n\n"
        finally:
            del self._pending[woken]
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
                if client and not self._closed:
                    self._leave(client)

    def check_room(self) -> None:
        """Raise RefusalError (503) when as many streams are open as may be."""
        if len(self._pending) >= self._most:
            raise RefusalError(503, f"{len(self._pending)} tabs listen already, at most {self._most} may; close one")

    def _note(self, job_id: str) -> None:
        for woken, pending in self._pending.items():
            pending[job_id] = None
            woken.set()

    def _event(self, job_id: str, is_last: bool) -> str:
        """Return a job's event; only after the last one that waits has a stream told all up to the latest change."""
        assert self._runner is not None
        number = f"id: {self._run}-{self._runner.num_changes}\n" if is_last else ""
        job: dict[str, Any] | None = self._runner.get(job_id)
        if job is None:
            return f"{number}event: removed\ndata: {json.dumps({'id': job_id})}\n\n"
        return f"{number}data: {json.dumps({'job': job})}\n\n"

    def _number(self, last_event: str) -> int:
        """Return the number of the change after which a stream broke off; one that is new has what GET /jobs told."""
        assert self._runner is not None
        run, _, number = last_event.partition("-")
        if not run:
            return self._runner.num_changes
        return int(number) if run == self._run and number.isdecimal() and len(number) < 16 else 0

    def _leave(self, client: str) -> None:
        assert self._loop is not None
        if (leaving := self._leaving.pop(client, None)) is not None:
            leaving.cancel()

        def stop() -> None:
            assert self._runner is not None
            self._leaving.pop(client, None)
            if not self._open[client]:
                assert self._loop is not None
                self._loop.run_in_executor(None, self._runner.cancel_of, client)  # it writes files

        self._leaving[client] = self._loop.call_later(self._grace_s, stop)
