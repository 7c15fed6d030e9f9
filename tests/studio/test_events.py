"""Server-sent events over a real socket, and tabs that are closed."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alchemint.studio import events
from alchemint.studio.server import create_app
from tests.studio_server import FakeMaker, served, settings, storyboard, wait_for

API = "/api/v1"


class Tab:
    """A browser's tab: a stream of events, and requests beside it."""

    def __init__(self, address: str, client: str, last_event: str | None = None) -> None:
        self.address, self.client = urlsplit(address).netloc, client
        self._connection = http.client.HTTPConnection(self.address, timeout=10)
        self._connection.request("GET", f"{API}/events?client={client}",
                                 headers={"Last-Event-ID": last_event} if last_event else {})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        assert self._answer.headers["content-type"].startswith("text/event-stream")

    def next(self) -> dict[str, str]:
        """Return the fields of the next event; comments are left out."""
        found: dict[str, str] = {}
        while True:
            line = self._answer.readline().decode().rstrip("\n")
            key, _, value = line.partition(": ")
            if key in ("id", "event", "data"):
                found[key] = value
            elif not line and "data" in found:
                return found

    def job(self) -> dict[str, Any]:
        """Return the job of the next event."""
        found: dict[str, Any] = json.loads(self.next()["data"])["job"]
        return found

    def line(self) -> str:
        """Return the next line."""
        return self._answer.readline().decode()

    def submit(self, **options: Any) -> dict[str, Any]:
        return call(self.address, "POST", "/jobs", {"storyboard": storyboard(), "options": {
            "client": self.client, "steps": 3, **options}})["jobs"][0]

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def call(address: str, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, API + path, None if body is None else json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


@pytest.fixture
def maker() -> FakeMaker:
    return FakeMaker()


@pytest.fixture
def address(tmp_path: Path, maker: FakeMaker) -> Iterator[str]:
    with served(create_app(settings(tmp_path, maker, limits={"grace_s": 0.3, "streams": 6}))) as found:
        yield found


def test_a_stream_tells_every_state_of_a_job(address: str, maker: FakeMaker) -> None:
    maker.step_s = 0.05
    tab = Tab(address, "a")
    name = tab.submit()["id"]
    states = []
    while not states or states[-1] != "done":
        job = tab.job()
        assert job["id"] == name
        states.append(job["state"])
    assert set(states) >= {"running", "done"}
    call(tab.address, "DELETE", f"/jobs/{name}")
    removed = next(event for event in iter(tab.next, None) if event.get("event") == "removed")
    assert json.loads(removed["data"]) == {"id": name}
    tab.close()


def test_a_stream_that_broke_off_misses_nothing(address: str, maker: FakeMaker) -> None:
    tab = Tab(address, "a")
    first = tab.submit(keep=True)["id"]
    event = tab.next()
    while json.loads(event["data"])["job"]["state"] != "done":
        event = tab.next()
    tab.close()
    second = tab.submit(keep=True)["id"]
    wait_for(lambda: call(tab.address, "GET", f"/jobs/{second}")["state"] == "done")
    again = Tab(address, "a", event["id"])
    heard = again.job()
    heard = again.job() if heard["id"] == first else heard  # looked at after its end
    assert (heard["id"], heard["state"]) == (second, "done")
    again.close()
    for unknown in ("deadbeef-7", "nonsense", "deadbeef-" + "9" * 99):
        other = Tab(address, "b", unknown)
        assert {other.job()["id"], other.job()["id"]} == {first, second}, "after a restart everything is told"
        other.close()


def test_a_closed_tab_stops_its_jobs(address: str, maker: FakeMaker) -> None:
    maker.held.set()
    tab, other = Tab(address, "a"), Tab(address, "b")
    mine = [tab.submit()["id"] for _ in range(2)]
    kept, others = tab.submit(keep=True)["id"], other.submit()["id"]
    tab.close()
    begun = time.monotonic()

    def states() -> list[str]:
        return [call(other.address, "GET", f"/jobs/{name}")["state"] for name in (*mine, kept, others)]

    wait_for(lambda: states()[:2] == ["cancelled", "cancelled"], 8)
    assert time.monotonic() - begun >= 0.3, "it has some grace"
    assert call(other.address, "GET", f"/jobs/{mine[0]}")["faults"] == ["the tab that asked for the video was closed"]
    assert set(states()[2:]) <= {"running", "queued"}
    other.close()


def test_a_reload_stops_nothing(address: str, maker: FakeMaker) -> None:
    maker.held.set()
    tab = Tab(address, "a")
    name = tab.submit()["id"]
    tab.close()
    again = Tab(address, "a")
    time.sleep(2.0)
    assert call(again.address, "GET", f"/jobs/{name}")["state"] == "running"
    again.close()


def test_a_job_of_a_tab_that_never_listens_is_stopped(address: str, maker: FakeMaker) -> None:
    maker.held.set()
    place = urlsplit(address).netloc
    body = {"storyboard": storyboard(), "options": {"client": "ghost"}}
    name = call(place, "POST", "/jobs", body)["jobs"][0]["id"]
    wait_for(lambda: call(place, "GET", f"/jobs/{name}")["state"] == "cancelled", 5)
    lasting = call(place, "POST", "/jobs", {"storyboard": storyboard()})["jobs"][0]["id"]
    time.sleep(0.8)
    assert call(place, "GET", f"/jobs/{lasting}")["state"] == "running", "one without a tab stays"


def test_a_silent_stream_says_that_it_lives(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 1.0)
    tab = Tab(address, "a")
    lines = [tab.line() for _ in range(4)]
    assert lines[0] == "retry: 2000\n"
    assert ": still here\n" in [*lines, tab.line()]
    tab.close()


def test_streams_are_counted(address: str) -> None:
    tabs = [Tab(address, f"t{number}") for number in range(6)]
    connection = http.client.HTTPConnection(tabs[0].address, timeout=10)
    connection.request("GET", f"{API}/events?client=t9")
    answer = connection.getresponse()
    assert answer.status == 503
    assert "6 tabs listen already" in answer.read().decode()
    connection.close()
    for tab in tabs:
        tab.close()
    wait_for(lambda: _opens(address))


def _opens(address: str) -> bool:
    try:
        Tab(address, "t9").close()
    except AssertionError:
        return False
    return True


def test_a_slow_reader_costs_one_entry_a_job() -> None:
    streams = events.Streams(4, 1.0)
    import asyncio

    async def flood() -> int:
        woken = asyncio.Event()
        streams._pending[woken] = {}
        for number in range(10_000):
            streams._note(f"job {number % 5}")
        return len(streams._pending[woken])

    assert asyncio.run(flood()) == 5
