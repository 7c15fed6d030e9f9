"""The toy perception that the package ships."""

import hashlib
from typing import TYPE_CHECKING

from alchemint.perception import TOY_FOLDER

if TYPE_CHECKING:
    from alchemint.perception.clip import ClipComparer
    from alchemint.perception.watcher import Watcher

FOLDER = TOY_FOLDER


def toy_edition() -> str:
    """Return a hash of the weights and settings, by which scores of different editions are told apart."""
    digest = hashlib.sha256()
    for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def load_toy() -> "tuple[Watcher, ClipComparer]":
    """Load the toy perception that the package ships."""
    from alchemint.perception.toy import load_toy_perception

    return load_toy_perception(FOLDER)
