"""A storyboard's timeline as text: one row for each subject and event, its bar over the seconds."""

from rich.table import Table
from rich.text import Text

from alchemint import timeline
from alchemint.storyboard import Storyboard

COLOURS = ("blue", "dark_orange", "green", "magenta", "cyan", "yellow", "red", "purple")
ON, OFF = "█", "·"


def timeline_table(storyboard: Storyboard, width: int) -> Table:
    """Return the table of a resolved storyboard; bars are `width` characters long."""
    fps, num_frames = storyboard.fps, storyboard.num_frames
    assert fps is not None, "resolve the storyboard first"
    assert num_frames is not None, "resolve the storyboard first"
    end_s = max(timeline.duration_s(num_frames, fps), 1 / fps)
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("label", "bar", "note"):
        table.add_column(column, no_wrap=column != "note", overflow="ellipsis")
    for number, subject in enumerate(storyboard.subjects):
        spans = ", ".join(f"{start:g} to {end:g} s" for start, end in subject.appears)
        colour = COLOURS[number % len(COLOURS)]
        table.add_row(Text(subject.name), _bar(subject.appears, end_s, width, colour), Text(spans))
    for event in storyboard.events:
        table.add_row(Text("event", "dim"), _bar((event.during,), end_s, width, "white"), Text(event.text))
    table.add_row("", _scale(end_s, width), "")
    return table


def _bar(intervals: tuple[tuple[float, float], ...], end_s: float, width: int, colour: str) -> Text:
    """Return a bar of cells; those of an interval are on, at least one for each."""
    bar = Text(OFF * width, "dim")
    for start, end in intervals:
        first = min(width - 1, max(0, round(start / end_s * width)))
        last = min(width, max(first + 1, round(end / end_s * width)))
        bar = bar[:first] + Text(ON * (last - first), colour) + bar[last:]
    return bar


def _scale(end_s: float, width: int) -> Text:
    """Return the seconds at the beginning, the quarters and the end."""
    line = [" "] * (width + 4)
    for quarter in range(5):
        text = f"{end_s * quarter / 4:.3g}{' s' if quarter == 4 else ''}"
        place = min(round(quarter / 4 * width), width + 4 - len(text))
        line[place:place + len(text)] = text
    return Text("".join(line), "dim")
