"""The command `alchemint`. Each subcommand lies in the file of its name and is imported only when it is called."""

import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import alchemint

COMMANDS = {
    "annotate": "Make training data of video clips: who is where, and when.",
    "export": "Make a model folder of a training run's checkpoint.",
    "generate": "Make a video of a storyboard.",
    "precompute": "Encode clips and their texts once, for many training runs.",
    "s2vtime": "Benchmark: is the right subject on screen exactly when told?",
    "studio": "Serve a page that makes videos of storyboards.",
    "timeline": "Draw a storyboard's intervals and curves.",
    "toyworld": "Write synthetic clips with exact ground truth.",
    "train": "Train by a recipe; the same command again resumes it.",
}
"""Subcommands and their lines in the help. Each is the function of its name in the module of its name, or there a
dictionary of functions, its own subcommands; the one called "" is meant where none is named."""

DEFAULT = "run"

USER_FAULT, INTERRUPTED, TERMINATED = 2, 130, 143


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process by SystemExit, with status 2 for what the user can mend."""
    # Beside any other busy process, OpenMP threads that wait by spinning made sampling 20 times slower (measured).
    # Read when torch is loaded, so set before any command is.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # As for Ctrl-C: files that are being written are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    build_app(arguments)(args=arguments, prog_name="alchemint")


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line with the one subcommand that `arguments` name loaded, and the others as lines of help."""
    app = typer.Typer(help="Videos from storyboards: subjects that are on screen when they are told to be.",
                      no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    options = {"traceback": False}

    @app.callback()
    def common(
        version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                              help="Show the version.")] = False,
        traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
    ) -> None:
        options["traceback"] = traceback

    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, line in COMMANDS.items():
        loaded = _load(name) if name == called else lambda: None
        if callable(loaded):
            app.command(name, short_help=line)(_guarded(loaded, lambda: options["traceback"]))
            continue
        default = "" in loaded
        told = (f"{line}\n\n`alchemint {name} …` means `alchemint {name} {DEFAULT} …`; "
                f"`alchemint {name} {DEFAULT} --help` tells its options.")
        group = typer.Typer(help=told if default else line, no_args_is_help=True, rich_markup_mode=None,
                            cls=_WithDefault if default else TyperGroup)
        for subcommand, function in loaded.items():
            group.command(subcommand or DEFAULT)(_guarded(function, lambda: options["traceback"]))
        app.add_typer(group, name=name)
    return app


class _WithDefault(TyperGroup):
    """A group whose subcommand DEFAULT is meant where the first word names none."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def _load(name: str) -> Callable[..., None] | dict[str, Callable[..., None]]:
    found: Callable[..., None] | dict[str, Callable[..., None]] = getattr(
        importlib.import_module(f"alchemint.cli.{name}"), name)
    return found


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alchemint {alchemint.__version__}")
        raise typer.Exit


def _guarded(function: Callable[..., None], shows_traceback: Callable[[], bool]) -> Callable[..., None]:
    """Return the function with what a user can cause told in lines on stderr and by the exit status."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # who reads our output has gone: no fault of the user's
        except (ValueError, OSError, FloatingPointError) as error:
            if shows_traceback():
                raise
            for line in _lines(error):
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(USER_FAULT) from None

    return guarded


def _lines(error: ValueError | OSError | FloatingPointError) -> list[str]:
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    return [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
