"""Draw the reference pictures of examples/ from the toyworld's sprites, each in a colour that its word does not tell.

    python scripts/make_examples.py
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from alchemint.media import write_image
from alchemint.toyworld import sprites
from alchemint.toyworld.looks import COLOURS, Look, dress
from alchemint.toyworld.references import draw_reference

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SIDE = 128


@dataclass(frozen=True)
class Picture:
    """A file of examples/: which sprite it shows, in which colours, in which pose (a seed), mirrored or not."""

    file: str
    word: str
    colour: str
    accent: str = "white"
    pattern: str = "plain"
    pose: int = 0
    mirrored: bool = False


PICTURES = (
    Picture("fox.png", "fox", "blue", "white", "patches"),
    Picture("balloon.png", "balloon", "red"),
    Picture("purple_cat.png", "cat", "purple"),
    Picture("orange_cat.png", "cat", "orange"),
    Picture("duck.png", "duck", "purple", "yellow", "dots"),
    Picture("duck_turned.png", "duck", "purple", "yellow", "dots", pose=2, mirrored=True),
    Picture("robot.png", "robot", "green", "white", "stripes"),
)


def draw(picture: Picture) -> Image.Image:
    """Return a picture, RGBA with transparent surroundings."""
    subjects = {subject.word: subject for split in ("train", "heldout") for subject in sprites.subjects(split)}
    look = Look(picture.colour, COLOURS[picture.colour], COLOURS[picture.accent], picture.pattern,
                angle=0.9, period=0.36, phase=0.2)
    dressed = dress(sprites.sprite(subjects[picture.word]), look)
    reference, _ = draw_reference(np.random.default_rng(picture.pose), dressed, SIDE, picture.mirrored)
    return Image.fromarray(reference)


if __name__ == "__main__":
    for each in PICTURES:
        write_image(EXAMPLES / each.file, draw(each))
