"""`alchemint timeline`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Alchemint = Callable[..., Any]

PARK = Path(__file__).parents[2] / "examples" / "park.yaml"


@pytest.mark.usefixtures("toy")
def test_the_command_writes_a_picture(alchemint: Alchemint, tmp_path: Path) -> None:
    target = tmp_path / "new" / "park.png"
    outcome = alchemint("timeline", PARK, "-o", target)
    assert (outcome.status, outcome.err) == (0, "")
    with Image.open(target) as picture:
        assert picture.width == 1280


def test_only_png_is_written(alchemint: Alchemint, tmp_path: Path) -> None:
    outcome = alchemint("timeline", PARK, "-o", tmp_path / "park.gif")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "must end in .png" in outcome.err
