"""Build the toyworld's sprite atlas from the Noto Color Emoji font.

    python scripts/build_sprites.py [--font NotoColorEmoji.ttf]

Reads `sprites.toml` beside this file, draws each emoji, crops it, gives it a thin dark outline (so that it stands out
from any background at 24 pixels) and writes `sprites.webp` (lossless, with alpha) and `sprites.json` (word, kind,
split and size of each cell, row by row) into the package. The font is under the SIL Open Font License 1.1, and so
are the sprites; the licence's text lies beside them.
"""

import argparse
import json
import tomllib
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
TABLE = Path(__file__).with_name("sprites.toml")
ASSETS = Path(__file__).parents[1] / "src/alchemint/toyworld/assets"

BITMAP_SIZE = 109
"""The one size in which the font holds its bitmaps."""

CELL = 96
NUM_COLUMNS = 20
OUTLINE = 2
OUTLINE_COLOUR = (38, 32, 44)


def draw_emoji(font: ImageFont.FreeTypeFont, codes: str) -> Image.Image:
    """Return the emoji of the code points `codes` (hexadecimal, joined by "-") as RGBA, cropped to what is seen."""
    canvas = Image.new("RGBA", (2 * BITMAP_SIZE, 2 * BITMAP_SIZE))
    text = "".join(chr(int(code, 16)) for code in codes.split("-"))
    ImageDraw.Draw(canvas).text((BITMAP_SIZE // 2, BITMAP_SIZE // 2), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None or box[2] - box[0] > 1.5 * BITMAP_SIZE:
        raise ValueError(f"the font holds no single glyph for {codes}; take another one in {TABLE.name}")
    return canvas.crop(box)


def outlined_cell(emoji: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGBA cell with the outlined emoji in its middle, and the width and height of what is seen."""
    room = CELL - 2 * OUTLINE - 2
    scale = room / max(emoji.size)
    size = (max(1, round(emoji.width * scale)), max(1, round(emoji.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(emoji.resize(size, Image.Resampling.LANCZOS), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    alpha = cell.getchannel("A")
    around = alpha.filter(ImageFilter.MaxFilter(2 * OUTLINE + 1)).filter(ImageFilter.GaussianBlur(0.8))
    outline = Image.new("RGBA", (CELL, CELL), OUTLINE_COLOUR)
    outline.putalpha(ImageChops.lighter(around, alpha))
    outlined = Image.alpha_composite(outline, cell)
    blank = Image.new("RGBA", (CELL, CELL))
    outlined = Image.composite(outlined, blank, outlined.getchannel("A").point(lambda value: 255 if value else 0))
    return outlined, size


def build(font_path: Path, folder: Path) -> None:
    """Write the atlas and its table into `folder`."""
    font = ImageFont.truetype(str(font_path), BITMAP_SIZE, layout_engine=ImageFont.Layout.RAQM)
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    subjects = [(word, kind, split, codes) for split, kinds in table.items() for kind, words in kinds.items()
                for word, codes in words.items()]
    words = [word for word, *_ in subjects]
    assert len(set(words)) == len(words), sorted(word for word in words if words.count(word) > 1)
    num_rows = -(-len(subjects) // NUM_COLUMNS)
    atlas = Image.new("RGBA", (NUM_COLUMNS * CELL, num_rows * CELL))
    rows = []
    for number, (word, kind, split, codes) in enumerate(subjects):
        cell, (width, height) = outlined_cell(draw_emoji(font, codes))
        atlas.paste(cell, (number % NUM_COLUMNS * CELL, number // NUM_COLUMNS * CELL))
        rows.append({"word": word, "kind": kind, "split": split, "codes": codes, "width": width, "height": height})
    atlas.save(folder / "sprites.webp", lossless=True, quality=100, method=6)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (folder / "sprites.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", type=Path, default=FONT)
    build(parser.parse_args().font, ASSETS)
