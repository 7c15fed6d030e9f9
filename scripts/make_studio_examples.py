"""Pack storyboards of examples/ with their pictures for the studio's page, which is installed without that folder.

    python scripts/make_studio_examples.py
"""

import zipfile
from io import BytesIO
from pathlib import Path

from alchemint.storage import write_bytes
from alchemint.storyboard import load_storyboard

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SHIPPED = ROOT / "src" / "alchemint" / "studio" / "web" / "examples"
NAMES = ("park", "visits", "twins", "story")
"""As studio.js lists them."""


def packed(name: str) -> bytes:
    """Return the zip of a storyboard of examples/, the same bytes each time."""
    path = EXAMPLES / f"{name}.yaml"
    pictures = {Path(image) for subject in load_storyboard(path).subjects for image in subject.images}
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for each in (path, *sorted(pictures)):
            entry = zipfile.ZipInfo(each.name)  # of 1980
            entry.external_attr = 0o644 << 16
            file.writestr(entry, each.read_bytes())
    return content.getvalue()


if __name__ == "__main__":
    for each in NAMES:
        write_bytes(SHIPPED / f"{each}.zip", packed(each))
