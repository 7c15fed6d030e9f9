"""`alchemint timeline`: a picture of a storyboard's intervals and of its encoding's curves K(t)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alchemint.cli.models import MODEL_HELP, TOY, find_model

if TYPE_CHECKING:
    import numpy as np

    from alchemint.storyboard import Storyboard


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
    from alchemint.model_folder import read_defaults
    from alchemint.storyboard import load_storyboard

    defaults, transformer = read_defaults(source.config_folder)
    board = load_storyboard(storyboard, defaults)
    for warning in board.warnings():
        typer.echo(f"warning: {warning}", err=True)
    name = encoding or transformer["interval_encoding"]
    subtitle = f"K(t) of the encoding {name}, {model}"
    media.write_image(target, sheet.timeline_chart(board, curves(board, name, transformer), subtitle))
    typer.echo(f"wrote   {target}")


def curves(board: "Storyboard", encoding: str, transformer: dict[str, Any]) -> "dict[str, list[np.ndarray]]":
    """Return by subject name K(t) for t = 0 .. T-1 of each of its intervals.

    `transformer` is the config of an AlcheMinT transformer. Raises ValueError for an unknown encoding.
    """
    import torch

    from alchemint.model.encodings import Intervals, WeropeWeights, attention_proxy, temporal_freqs
    from alchemint.model.rotary import ENCODINGS, AlchemintRotaryPosEmbed
    from alchemint.timeline import latent_span_of, num_latents

    assert board.fps and board.num_frames, "resolve the storyboard first"
    weights = WeropeWeights(transformer["werope_inside"], transformer["werope_outside"])
    rotary = AlchemintRotaryPosEmbed(
        transformer["attention_head_dim"], tuple(transformer["patch_size"]), encoding, weights,
        transformer["num_word_tokens"], transformer["rope_theta"])
    freqs = temporal_freqs(rotary.num_temporal_pairs, rotary.theta)
    count = num_latents(board.num_frames)
    found: dict[str, list[np.ndarray]] = {}
    for index, subject in enumerate(board.subjects):
        spans = torch.tensor([latent_span_of(interval, board.fps, board.num_frames) for interval in subject.appears])
        indices = torch.full((len(spans),), index)
        multipliers = ENCODINGS[encoding](Intervals(spans, indices, count), freqs, weights)
        found[subject.name] = list(attention_proxy(multipliers, count, freqs).numpy())
    return found
