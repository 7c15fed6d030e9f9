"""The timeline as text."""

import io

import pytest
from PIL import Image
from rich.console import Console

from alchemint.cli import chart
from alchemint.storyboard import Defaults, Event, Storyboard, Subject

DEFAULTS = Defaults(8.0, 64, 64, 33, 16)


def lines_of(storyboard: Storyboard, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=120).print(chart.timeline_table(storyboard.resolve(DEFAULTS), width))
    return text.getvalue().splitlines()


def storyboard(appears: list[tuple[float, float]], name: str = "fox") -> Storyboard:
    subject = Subject(name=name, word="fox", images=[Image.new("RGB", (4, 4))], appears=appears)
    return Storyboard(prompt="A fox.", subjects=[subject], events=[Event(during=(0, 2), text="it rains")])


@pytest.mark.parametrize("appears", [[(0.0, 4.0)], [(1.0, 3.0)], [(0.0, 1.0), (2.0, 4.0)], [(3.9, 4.0)]])
def test_bars_lie_where_their_seconds_are(appears: list[tuple[float, float]]) -> None:
    line = lines_of(storyboard(appears), 40)[0]
    bar = line[line.index(next(mark for mark in line if mark in chart.ON + chart.OFF)):][:40]
    for cell, mark in enumerate(bar):
        middle = (cell + 0.5) / 10
        assert (mark == chart.ON) == any(start <= middle < end for start, end in appears)


def test_the_shortest_interval_still_shows() -> None:
    assert chart.ON in lines_of(storyboard([(1.0, 1.126)]), 24)[0]


def test_names_and_captions_are_shown_as_written() -> None:
    lines = lines_of(storyboard([(0, 1)], "[bold]fox[/bold]"), 30)
    assert lines[0].startswith("[bold]fox[/bold]")
    assert "it rains" in lines[1]


def test_the_scale_ends_with_the_video() -> None:
    assert lines_of(storyboard([(0, 1)]), 30)[-1].split() == ["0", "1", "2", "3", "4", "s"]
