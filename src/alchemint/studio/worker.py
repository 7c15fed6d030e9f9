"""Makes the videos of jobs with a pipeline, the way `alchemint generate` does: the same files, byte for byte."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alchemint.lazy_frames import LazyFrames
from alchemint.rendering import Options, sample, write
from alchemint.storage import write_bytes
from alchemint.studio.interruption import interruptible
from alchemint.studio.making import FILM, MADE, SHEET, VIDEO, Made, Order, Progress

if TYPE_CHECKING:
    import numpy as np

    from alchemint.perception.watcher import Watcher
    from alchemint.pipeline import AlchemintPipeline


# While diffusers loads a model, every module that any thread of the process makes is without data (accelerate's
# `init_empty_weights` swaps a method of `nn.Module`): one load at a time.
_loading = threading.Lock()


class PipelineMaker:
    """A maker (`making.Make`) around a pipeline, which is loaded once, when it is first needed."""

    def __init__(self, model: str, load: "Callable[[], AlchemintPipeline]", options: Callable[[], Options],
                 watcher: "Callable[[], Watcher] | None" = None) -> None:
        """model: its name, for the records. load, options: called in the worker's thread, as both import torch.

        watcher: loads who is to look for the subjects in finished videos; nobody does when None.
        """
        self._model, self._load, self._options, self._load_watcher = model, load, options, watcher
        self._pipeline: AlchemintPipeline | None = None
        self._watcher: Watcher | None = None
        self._loading_s = 0.0

    @property
    def sees(self) -> bool:
        """Whether somebody looks for the subjects in finished videos."""
        return self._load_watcher is not None

    def prepare(self) -> None:
        """Load the model."""
        with _loading:
            if self._pipeline is None:
                begun = time.perf_counter()
                self._pipeline = self._load()
                self._loading_s = time.perf_counter() - begun

    def __call__(self, order: Order, progress: Progress) -> Made:
        """Make the video, its record, its contact sheet and its film strip; watch what attention the frames pay to the
        references."""
        self.prepare()

        from alchemint.long_video import windows_of
        from alchemint.studio.film import film_strip
        from alchemint.studio.observing import Observer

        pipeline = self._pipeline
        assert pipeline is not None
        board, options = order.storyboard, replace(self._options(), steps=order.steps)
        windows = windows_of(board, options.window, options.overlap_s)
        with interruptible(pipeline, progress.check), \
                Observer(pipeline, order.preview_every, progress.preview, windows) as observer:

            def on_step_end(pipe: "AlchemintPipeline", step: int, timestep: Any, tensors: dict[str, Any]
                            ) -> dict[str, Any]:
                progress.step(step + 1)
                return observer.callback(pipe, step, timestep, tensors)

            with closing(sample(pipeline, board, options, on_step_end, observer.tensor_inputs)) as frames:
                write(order.folder / VIDEO, _checked(frames, progress), board, options, self._model, self._loading_s,
                      order.folder / SHEET, order.folder / MADE)
            with closing(_frames(order)) as finished:
                write_bytes(order.folder / FILM, film_strip(finished))
            return Made(observer.attention() or None)

    def look(self, order: Order) -> Mapping[str, Any] | None:
        """Tell when each subject is seen in the video, where somebody can look."""
        if self._load_watcher is None:
            return None
        from alchemint.media import read_video
        from alchemint.studio.seeing import seen_intervals

        with _loading:
            if self._watcher is None:
                self._watcher = self._load_watcher()
        return seen_intervals(*read_video(order.folder / VIDEO), order.storyboard, self._watcher)


def _frames(order: Order) -> LazyFrames:
    """Return the frames of the finished video, of which few are in memory at once."""
    board = order.storyboard
    assert board.num_frames and board.fps, "resolve the storyboard first"
    return LazyFrames(order.folder / VIDEO, 0, board.num_frames, board.fps)


def _checked(frames: "Iterator[np.ndarray]", progress: Progress) -> "Iterator[np.ndarray]":
    """Yield the frames; the writing of a long video can be stopped, too."""
    for frame in frames:
        progress.check()
        yield frame
