"""Where jobs lie on the disk: a folder each, with job.json, storyboard.json, its pictures and what was made.

`alchemint generate storyboard.json` makes the video again in there.
"""

import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from alchemint.media import write_text
from alchemint.storyboard import Storyboard
from alchemint.studio.checking import image_names, with_images
from alchemint.studio.job import Job
from alchemint.studio.making import FILES
from alchemint.studio.pictures import PictureStore, copy_file

logger = logging.getLogger(__name__)

JOB, STORYBOARD = "job.json", "storyboard.json"


class JobFolder:
    """The folder of all jobs, which one server at a time may use."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where there is none; ValueError when another server uses it."""
        self.path = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / ".lock")

    def close(self) -> None:
        """Leave the folder to other servers."""
        self._lock.close()

    def of(self, job_id: str) -> Path:
        """Return the folder of a job."""
        return self.path / job_id

    def create(self, job: Job, board: Storyboard, pictures: PictureStore) -> Storyboard:
        """Write a new job; return its storyboard with the images that lie in its folder."""
        folder = self.of(job.id)
        files: dict[str, Path | None] = {}
        for name in image_names(board):
            source = pictures.path(name)
            if source is None:
                raise ValueError(f"picture {name} is gone; upload it again")
            files[name] = folder / "pictures" / name
            copy_file(source, folder / "pictures" / name)
        subjects = [{**row, "images": [f"pictures/{name}" for name in row["images"]]}
                    for row in job.storyboard.get("subjects") or ()]
        _write(folder / STORYBOARD, {**job.storyboard, "subjects": subjects})
        self.write(job)
        return with_images(board, files)

    def write(self, job: Job) -> None:
        """Write what is known of a job, whole or not at all."""
        _write(self.of(job.id) / JOB, job.to_record())

    def remove(self, job_id: str) -> None:
        """Remove a job with all that it made."""
        gone = self.path / f".{job_id}.{secrets.token_hex(4)}.removed"
        with suppress(FileNotFoundError):
            self.of(job_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def clear_unfinished(self, job_id: str) -> None:
        """Remove what a job that did not end well has left; the storyboard and its pictures stay."""
        folder = self.of(job_id)
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_file() and path.name not in (JOB, STORYBOARD):
                path.unlink(missing_ok=True)

    def read_all(self) -> Iterator[Job]:
        """Yield the jobs of earlier servers, oldest first; what cannot be read is passed over with a warning."""
        for gone in self.path.glob(".*.removed"):
            shutil.rmtree(gone, ignore_errors=True)
        for path in sorted(self.path.glob(f"*/{JOB}")):
            try:
                board = json.loads((path.parent / STORYBOARD).read_text(encoding="utf-8"))
                for subject in board.get("subjects") or ():
                    subject["images"] = [Path(image).name for image in subject["images"]]
                job = Job.of_record(json.loads(path.read_text(encoding="utf-8")), board)
                if job.id != path.parent.name:
                    raise ValueError(f"it names the job {job.id}")
                job.files = {name for name in FILES if (path.parent / name).is_file()}
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                logger.warning("%s is no job and is passed over: %s", path.parent, error)
            else:
                yield job


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _locked(path: Path) -> TextIO:
    """Return a file that is locked until it is closed, or until the process ends."""
    file = path.open("a", encoding="utf-8")
    try:
        import fcntl
    except ImportError:  # Windows has none; there nothing keeps two servers apart
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(f"the folder {path.parent} is in use by another studio; end that one, or name another with "
                         "--folder") from error
    return file
