"""A studio without a model: fake makers, its settings, pictures, and a real server on a free port."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from alchemint.storyboard import Defaults
from alchemint.studio.making import MADE, VIDEO, Made, Order, Progress
from alchemint.studio.settings import Limits, Settings, StudioModel

DEFAULTS = Defaults(fps=6, width=64, height=64, num_frames=25, size_multiple=16, events_may_overlap=False)


@dataclass
class FakeMaker:
    """Writes files at once, or step by step while `held` is set; remembers what it was asked for."""

    step_s: float = 0.0
    fault: Exception | None = None
    seen: Mapping[str, Any] | None = None
    orders: list[Order] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        """Nothing is to be loaded."""

    def __call__(self, order: Order, progress: Progress) -> Made:
        """Make a video that is none."""
        self.orders.append(order)
        if self.fault is not None:
            raise self.fault
        for number in range(order.steps):
            while self.held.is_set():
                time.sleep(0.005)
                progress.check()
            time.sleep(self.step_s)
            progress.step(number + 1)
            if order.preview_every and (number + 1) % order.preview_every == 0:
                progress.preview(png())
        (order.folder / VIDEO).write_bytes(b"video of seed %d" % (order.storyboard.seed or 0))
        (order.folder / MADE).write_text("{}", encoding="utf-8")
        return Made({subject.name: [0.1] for subject in order.storyboard.subjects})

    def look(self, _: Order) -> Mapping[str, Any] | None:
        """Tell what the test wants to be seen."""
        return self.seen


def settings(folder: Path, make: Any = None, **changes: Any) -> Settings:
    """Return the settings of a studio; `limits` among the changes is a dictionary."""
    limits = {"free_bytes": 0, **changes.pop("limits", {})}
    model = StudioModel("fake", DEFAULTS, "werope", lambda board: {
        subject.name: [[0.5, 1.0] for _ in subject.appears] for subject in board.subjects})
    return Settings(model, make or FakeMaker(), folder, limits=Limits(**limits), **changes)


def png(size: tuple[int, int] = (8, 6), colour: str = "red", **options: Any) -> bytes:
    """Return a picture file."""
    return image_file(Image.new(options.pop("mode", "RGB"), size, colour), "PNG", **options)


def image_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as a file of a kind."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def storyboard(*images: str, **changes: Any) -> dict[str, Any]:
    """Return a sound storyboard, with one subject when there are images."""
    subjects = [{"name": "fox", "word": "fox", "images": list(images), "appears": [[0.5, 3.0]]}] if images else []
    return {"prompt": "a fox in a meadow", "subjects": subjects, **changes}


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine; give its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none",
                                           timeout_graceful_shutdown=2))
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        socket.close()


def wait_for(true: Callable[[], Any], timeout_s: float = 20.0, every_s: float = 0.01) -> Any:
    """Wait until a call gives something true; return it. Who asks often takes time from who works."""
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every_s)
    return found
