"""`alchemint studio`: the command as a process, and what it refuses."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemint.cli import studio
from tests.studio_server import wait_for

Alchemint = Callable[..., Any]


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def _answers(port: int) -> bool:
    try:
        get(port, "/")
    except ConnectionError:
        return False
    return True


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    """A function that starts the command on a free port; gives the process, its port and its first lines."""
    begun = []

    def start(*arguments: object) -> tuple[subprocess.Popen[str], int, str]:
        command = [sys.executable, "-m", "alchemint", "studio", "--port", 0, "--folder", tmp_path / "out", *arguments]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True)
        begun.append(process)
        assert process.stdout is not None
        told = ""
        while not (found := re.search(r"http://\S+?:(\d+) ", told)):
            line = process.stdout.readline()
            assert line, told
            told += line
        return process, int(found[1]), told

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_page_is_there_at_once_and_ends_with_the_process(serve: Any, tmp_path: Path) -> None:
    begun = time.perf_counter()
    process, port, told = serve()
    wait_for(lambda: _answers(port))
    status, page = get(port, "/")
    print(f"the page was there {time.perf_counter() - begun:.2f} s after the start")
    assert time.perf_counter() - begun < 15
    assert (status, b"<title>" in page) == (200, True)
    assert json.loads(get(port, "/api/v1/model")[1])["name"] == "toy"
    assert get(port, "/", Host="evil.example")[0] == 400
    assert told.startswith("studio  http://127.0.0.1:"), told
    assert "warning" not in told
    second = subprocess.run([sys.executable, "-m", "alchemint", "studio", "--port", "0", "--folder", tmp_path / "out"],
                            capture_output=True, text=True, timeout=60, check=False)
    assert (second.returncode, "is in use by another studio" in second.stderr) == (2, True), second.stderr
    process.send_signal(signal.SIGINT)
    begun = time.perf_counter()
    assert process.wait(20) == 0
    print(f"it ended {time.perf_counter() - begun:.2f} s after Ctrl+C")


@pytest.mark.slow
def test_an_open_server_warns_and_a_password_protects(serve: Any, tmp_path: Path) -> None:
    _, _, told = serve("--host", "0.0.0.0")
    assert "warning: everybody who reaches 0.0.0.0:0 can make videos and see yours" in told
    (tmp_path / "password").write_text("correct horse\nsecond line\n", encoding="utf-8")
    _, port, told = serve("--host", "0.0.0.0", "--password-file", tmp_path / "password", "--folder", tmp_path / "two")
    assert "warning" not in told
    wait_for(lambda: _answers(port))
    assert get(port, "/api/v1/model")[0] == 401
    assert get(port, "/api/v1/model", Authorization="Basic bWU6Y29ycmVjdCBob3JzZQ==")[0] == 200


def test_what_cannot_be_served_is_told(alchemint: Alchemint, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("1234567\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, fault in (
            (("--password-file", tmp_path / "short"), "has 7 characters, but at least 8 are needed"),
            (("--password-file", tmp_path / "none"), "No such file"),
            (("--model", tmp_path / "none"), "is neither toy nor a folder"),
            (("--port", taken.getsockname()[1]), "Address already in use; end what listens there, or give another"),
            (("--host", "192.0.2.1"), "cannot listen at 192.0.2.1, port 0"),
        ):
            outcome = alchemint("studio", "--folder", tmp_path / "out", "--port", 0, *arguments)
            assert outcome.status == 2
            assert fault in outcome.err


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False), ("::", False),
    ("192.168.1.2", False), ("studio.example", False),
])
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    assert studio.is_loopback(host) == loopback
