"""A storyboard as JSON text, which anybody may have written, to a checked one whose pictures lie in the input folder.

The text is the very document that `alchemint generate` takes; its pictures are names of files in ComfyUI's input
folder. Subjects that are wired to a node come in, too: one whose name the text has as well gives it its pictures.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pictures import path_of

if TYPE_CHECKING:
    from alchemint.storyboard import Storyboard, Subject

MAX_TEXT = 1_000_000
"""Characters of a storyboard's text. The longest that anyone would draw has some ten thousand."""

MOST_FAULTS_SHOWN = 20


def input_folder() -> Path:
    """Return ComfyUI's input folder."""
    import folder_paths

    return Path(folder_paths.get_input_directory())


def read(text: str) -> dict[str, Any]:
    """Return the keys and values of a storyboard's JSON text; ValueError with all that is wrong with its form."""
    from alchemint.document import quoted

    faults: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            faults.extend(f"key {quoted(key)} is given twice; remove one"
                          for key in dict.fromkeys(keys) if keys.count(key) > 1)
        return dict(pairs)

    def no_number(word: str) -> None:
        raise ValueError(f"the storyboard has {word} for a number; give a plain one")

    if len(text) > MAX_TEXT:
        raise ValueError(f"the storyboard's text has {len(text):,} characters, but at most {MAX_TEXT:,} are allowed; "
                         "shorten it")
    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"the storyboard's text is no JSON: line {error.lineno}, {error.msg}; correct it") from error
    except RecursionError as error:
        raise ValueError("the storyboard's text is nested too deeply; make it flatter") from error
    if not isinstance(document, dict):
        raise ValueError(f"the storyboard's text holds {quoted(document)}, but must hold keys with values, as in "
                         '{"prompt": "A fox trots across a meadow."}')
    if faults:
        raise ValueError(shown(faults))
    return document


def board_of(document: dict[str, Any], wired: "Sequence[Subject]" = (), prompt: str | None = None) -> "Storyboard":
    """Return the storyboard of a document, checked, pictures included; the paths of its pictures are whole.

    wired: subjects of other nodes. prompt: instead of the document's. Raises ValueError with all faults, one a line.
    """
    from alchemint.storyboard import Storyboard, StoryboardError
    from alchemint.storyboard_faults import image_faults

    folder = input_folder()
    document = _with_wired(document, wired) | ({} if prompt is None else {"prompt": prompt})
    faults = file_faults(document, folder)
    try:
        board = Storyboard(**document)
    except StoryboardError as error:
        raise ValueError(shown([*faults, *error.faults])) from error
    if faults:
        raise ValueError(shown(faults))
    board = board.model_copy(update={"subjects": tuple(
        subject.model_copy(update={"images": tuple(
            path_of(image.as_posix(), folder) if isinstance(image, Path) else image for image in subject.images)})
        for subject in board.subjects)})
    if faults := list(image_faults(board)):
        raise ValueError(shown(faults))
    return board


def text_of(board: "Storyboard") -> str:
    """Return a storyboard as JSON text that `read` takes; pictures that are no files are told by their size only."""
    folder = input_folder().resolve()
    named = board.model_copy(update={"subjects": tuple(
        subject.model_copy(update={"images": tuple(
            image.relative_to(folder) if isinstance(image, Path) else image for image in subject.images)})
        for subject in board.subjects)})
    return json.dumps(named.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)


def file_faults(document: dict[str, Any], folder: Path) -> list[str]:
    """Return a line for each image of a document that is no name of a file below `folder`."""
    faults = []
    for image in _images(document):
        try:
            path_of(image, folder)
        except ValueError as error:
            faults.append(str(error))
    return faults


def fingerprint(document: dict[str, Any], folder: Path) -> str:
    """Return what changes when a file that a document names does."""
    digest = hashlib.sha256()
    for image in _images(document):
        path = path_of(image, folder)
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()


def shown(faults: Iterable[str]) -> str:
    """Return faults, one a line; of very many only the first."""
    lines = list(dict.fromkeys(faults))
    more = len(lines) - MOST_FAULTS_SHOWN
    return "\n".join([*lines[:MOST_FAULTS_SHOWN], *([f"and {more:,} more faults"] if more > 0 else [])])


def _images(document: dict[str, Any]) -> list[Any]:
    """Return what a document names as images; what is of another form is told of by the storyboard itself."""
    subjects = document.get("subjects")
    rows = [row for row in subjects if isinstance(row, dict)] if isinstance(subjects, list) else []
    # Wired pictures come as a tuple, JSON's lists are lists.
    return [image for row in rows if isinstance(row.get("images"), list) for image in row["images"]]


def _with_wired(document: dict[str, Any], wired: "Sequence[Subject]") -> dict[str, Any]:
    """Return a document with wired subjects: those that it names get their pictures, the others are appended."""
    rows = document.get("subjects", [])
    if not wired or not isinstance(rows, list):
        return document
    by_name = {subject.name: subject for subject in wired}
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    joined = [{**row, "images": by_name[name].images} if isinstance(name, str) and name in by_name else row
              for row, name in zip(rows, names, strict=True)]
    new = [{"name": subject.name, "word": subject.word, "images": subject.images, "appears": subject.appears}
           for subject in wired if subject.name not in names]
    return document | {"subjects": [*joined, *new]}
