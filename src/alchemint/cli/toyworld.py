"""`alchemint toyworld`: write clips of the toyworld, with records and a contact sheet to look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL import Image

    from alchemint.toyworld import Clip

SHEET_FILE = "sheet.png"
MAX_SHEET_CLIPS = 16


def toyworld(
    out: Annotated[Path, typer.Option(help="folder for videos, references, records (Parquet) and sheet.png")],
    num: Annotated[int, typer.Option(min=1, help="number of clips")] = 8,
    split: Annotated[str, typer.Option(help="train, validation or heldout")] = "train",
    first: Annotated[int, typer.Option(min=0, help="number of the first clip")] = 0,
    width: Annotated[int, typer.Option(help="pixels")] = 64,
    height: Annotated[int, typer.Option(help="pixels")] = 64,
    num_frames: Annotated[int, typer.Option(help="frames, 4k+1")] = 33,
    fps: Annotated[float, typer.Option(help="frames per second")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="another seed makes another world")] = 0,
) -> None:
    """Write clips number FIRST to FIRST + NUM - 1 of a split; the same numbers always make the same clips."""
    from alchemint import media, sheet
    from alchemint.toyworld import WorldConfig, render_clip
    from alchemint.toyworld.clip_files import write_clips

    sheets: list[Image.Image] = []

    def rendered() -> "Iterator[Clip]":
        for index in range(first, first + num):
            clip = render_clip(split, index, config, seed=seed)
            if len(sheets) < MAX_SHEET_CLIPS:
                sheets.append(_sheet(clip))
            yield clip

    try:
        config = WorldConfig(width=width, height=height, num_frames=num_frames, fps=fps)
        records = write_clips(rendered(), out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    media.write_image(out / SHEET_FILE, sheet.stacked(sheets))
    typer.echo(f"{len(records)} clips in {out}; {out / SHEET_FILE} shows the first {len(sheets)}")


def _sheet(clip: "Clip") -> "Image.Image":
    """Return the contact sheet of one clip: its frames, and a bar for each subject's interval and for the events."""
    from PIL import Image

    from alchemint import sheet

    bars = [sheet.Bar(subject.word, [subject.interval], Image.fromarray(subject.references[0]))
            for subject in clip.subjects]
    events = sheet.Bar("events", [event.during for event in clip.events], None,
                       [event.text for event in clip.events], sheet.EVENT_COLOUR)
    return sheet.contact_sheet(clip.frames, clip.fps, [*bars, events], title=clip.caption,
                               subtitle=f"{clip.split} {clip.index}, {clip.background}")
