"""What the job runner asks for, and of whom: the seam between the queue and the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alchemint.storyboard import Storyboard

VIDEO, SHEET, MADE, PREVIEW, FILM = "video.mp4", "sheet.png", "made.json", "preview.png", "film.jpg"
FILES = {VIDEO: "video/mp4", SHEET: "image/png", MADE: "application/json", PREVIEW: "image/png", FILM: "image/jpeg"}
"""The files that a job may leave in its folder, and their media types."""


class CancelledError(Exception):
    """The job was cancelled; whatever is under way ends here."""


@dataclass(frozen=True)
class Order:
    """A video to be made: the resolved storyboard with its seed and with pictures that lie in `folder`.

    steps: of denoising, in each window. preview_every: steps from one preview to the next, 0 for none.
    """

    folder: Path
    storyboard: Storyboard
    steps: int
    preview_every: int = 0


class Progress(Protocol):
    """How a maker tells how far it is, and hears that it is to stop."""

    def check(self) -> None:
        """Raise CancelledError when the job was cancelled; to be called as often as can be."""

    def step(self, number: int) -> None:
        """Tell that as many steps are done, of all windows; raises CancelledError as `check` does."""

    def preview(self, png: bytes) -> None:
        """Show a picture of the video as it is expected to become."""


@dataclass(frozen=True)
class Made:
    """What was measured while a video was made: attention by subject name, for each latent frame."""

    attention: Mapping[str, Any] | None = None


class Make(Protocol):
    """Makes a video: writes files of the names FILES into the order's folder."""

    def __call__(self, order: Order, progress: Progress) -> Made:
        """Raise CancelledError soon after the job was cancelled; ValueError and OSError tell the user what to mend."""

    def prepare(self) -> None:
        """Get ready, as by loading weights; called once before the first job, while the page can be used already."""

    def look(self, order: Order) -> Mapping[str, Any] | None:
        """Return by subject name the intervals in which it is seen in the video; None where nobody can look."""
