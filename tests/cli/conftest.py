"""The command line, called within the process."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from alchemint.cli import main
from alchemint.cli.models import TOY_FOLDER


@dataclass(frozen=True)
class Outcome:
    """What a call printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def alchemint(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function that runs `alchemint` with the given arguments."""

    def run(*arguments: object) -> Outcome:
        texts = [str(argument) for argument in arguments]
        with pytest.raises(SystemExit) as caught:
            main.build_app(texts)(args=texts, prog_name="alchemint")
        printed = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def toy() -> None:
    """Skip where the package has no toy model yet."""
    if not (TOY_FOLDER / "model_index.json").is_file():
        pytest.skip("the toy model is not there")
