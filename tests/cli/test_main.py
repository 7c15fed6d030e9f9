"""The command line as a whole: help, what loads when, faults and interruptions."""

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from alchemint import __version__
from alchemint.cli import main

Alchemint = Callable[..., Any]

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "av")


def loaded_after(code: str) -> set[str]:
    """Return which heavy modules a fresh interpreter has loaded after running `code`."""
    check = f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def cpu_seconds(*command: str) -> float:
    """Return the least processor time of five runs, which other processes disturb less than the wall time."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_importing_the_package_is_quick() -> None:
    assert loaded_after("import alchemint") == set()
    assert cpu_seconds(sys.executable, "-c", "import alchemint") < 0.3


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    assert loaded_after("from alchemint.cli import main\ntry: main.main(['--help'])\nexcept SystemExit: pass") == set()
    assert cpu_seconds(sys.executable, "-m", "alchemint", "--help") < 0.5


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_its_help_without_heavy_modules(name: str) -> None:
    code = f"from alchemint.cli import main\ntry: main.main(['{name}', '--help'])\nexcept SystemExit: pass"
    assert loaded_after(code) == set()


def test_help_names_every_command(alchemint: Alchemint) -> None:
    outcome = alchemint("--help")
    assert outcome.status == 0
    assert all(name in outcome.out and line.split(";")[0] in outcome.out for name, line in main.COMMANDS.items())


def test_version(alchemint: Alchemint) -> None:
    assert alchemint("--version").out == f"alchemint {__version__}\n"


def test_an_unknown_command_or_option_is_a_user_fault(alchemint: Alchemint) -> None:
    assert alchemint("paint").status == 2
    assert alchemint("generate", "--paint").status == 2


@pytest.mark.parametrize(("error", "lines"), [
    (ValueError("first\nsecond"), ["error: first", "error: second"]),
    (ValueError(), ["error: ValueError"]),
    (FileNotFoundError(2, "No such file or directory", "a.yaml"), ["error: a.yaml: No such file or directory"]),
    (OSError("the hub is away"), ["error: the hub is away"]),
])
def test_user_faults_are_lines_on_stderr(
    error: Exception, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        main._guarded(command, lambda: False)()
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err.splitlines() == lines
    with pytest.raises(type(error)):
        main._guarded(command, lambda: True)()


def test_faults_of_ours_keep_their_traceback() -> None:
    def command() -> None:
        assert not command

    with pytest.raises(AssertionError):
        main._guarded(command, lambda: False)()


def test_an_interruption_is_told_and_has_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        main._guarded(command, lambda: False)()
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted\n"
