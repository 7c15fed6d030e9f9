"""`alchemint timeline`: a picture of a storyboard's intervals and of its encoding's curves K(t)."""

from pathlib import Path
from typing import Annotated

import typer

from alchemint.cli.models import MODEL_HELP, TOY, find_model


def timeline(
    storyboard: Annotated[Path, typer.Argument(help="A storyboard, YAML or JSON.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The PNG file.  [default: the storyboard's name "
                                                "with .png]", show_default=False)] = None,
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.")] = TOY,
    encoding: Annotated[str | None, typer.Option(help="Draw this interval encoding instead of the model's.")] = None,
) -> None:
    """Draw each subject's intervals and its curve K(t): how strongly its reference calls each latent frame.

    K is computed from the interval encoding alone; what training makes of it is another matter.
    """
    storyboard.open("rb").close()  # a wrong path is told before the wait for torch
    target = output or Path(storyboard.with_suffix(".png").name)
    if target.suffix.lower() != ".png":
        raise ValueError(f'output "{target}" must end in .png')
    source = find_model(model)

    from alchemint import media, sheet
    from alchemint.interval_curves import curves
    from alchemint.model_folder import read_defaults
    from alchemint.storyboard import load_storyboard

    defaults, transformer = read_defaults(source.config_folder)
    board = load_storyboard(storyboard, defaults)
    for warning in board.warnings():
        typer.echo(f"warning: {warning}", err=True)
    name = encoding or transformer["interval_encoding"]
    subtitle = f"K(t) of the encoding {name}, {model}"
    drawn = curves(board, name, transformer, defaults.num_frames)
    media.write_image(target, sheet.timeline_chart(board, drawn, subtitle))
    typer.echo(f"wrote   {target}")
