"""Watching a pipeline make a video, without any effect on what it makes: previews on the way, and what attention the
frames paid to each subject's references.

    with Observer(pipeline, 4, show, windows_of(board, num_frames)) as observer:
        frames = list(long_video(pipeline, board, num_frames, callback_on_step_end=observer.callback,
                                 callback_on_step_end_tensor_inputs=observer.tensor_inputs))
    observer.attention()     {"fox": [share of latent 0, 1, ...]}
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import torch

from alchemint.denoising import branch_name
from alchemint.diffusion.guidance import BOTH
from alchemint.long_video import Window
from alchemint.model.attention_record import AttentionRecord, observe_attention
from alchemint.storyboard import Storyboard
from alchemint.studio.preview import LinearDecoder, preview
from alchemint.timeline import TEMPORAL_STRIDE, num_latents

if TYPE_CHECKING:
    from alchemint.pipeline import AlchemintPipeline

Tensor = torch.Tensor

_DIGITS = 5


class Observer:
    """Watches one video's making while it is open.

    attention_fault: why attention cannot be observed (compiled blocks, several processes), None where it can.
    """

    def __init__(self, pipeline: "AlchemintPipeline", preview_every: int = 0,
                 on_preview: Callable[[bytes], None] | None = None, windows: Sequence[Window] = ()) -> None:
        """preview_every: steps from one preview to the next, 0 for none. on_preview: is given each, a PNG strip.
        windows: as the video is made in (`long_video.windows_of`); without them attention is not observed.
        """
        self.attention_fault: str | None = None
        self._pipeline = pipeline
        self._preview_every = preview_every if on_preview is not None else 0
        self._on_preview = on_preview
        self._windows = windows
        self._record = AttentionRecord()
        self._shares: list[Tensor | None] = []
        self._open = ExitStack()
        self._decoder: LinearDecoder | None = None

    @property
    def tensor_inputs(self) -> tuple[str, ...]:
        """What the pipeline's `callback_on_step_end_tensor_inputs` has to be."""
        return ("latents", "denoised") if self._preview_every else ("latents",)

    def __enter__(self) -> Self:
        if self._preview_every:
            self._decoder = LinearDecoder.of(self._pipeline.vae, self._pipeline._execution_device)
            self._pipeline.maybe_free_model_hooks()
        if any(window.storyboard.subjects for window in self._windows):
            try:
                for transformer in self._pipeline.transformers:
                    self._open.enter_context(observe_attention(transformer, branch_name(BOTH), record=self._record))
            except ValueError as error:
                self._open.close()
                self.attention_fault = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def callback(self, pipeline: "AlchemintPipeline", step: int, timestep: Tensor,
                 tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take part in a step, as the pipeline's callback_on_step_end, with steps counted through all windows.

        Raises ValueError where previews are wanted and the tensors lack what `tensor_inputs` names.
        """
        if self._preview_every and (step + 1) % self._preview_every == 0:
            if "denoised" not in tensors:
                raise ValueError("a preview needs the tensor \"denoised\"; give the pipeline this observer's "
                                 "tensor_inputs as callback_on_step_end_tensor_inputs")
            assert self._decoder is not None and self._on_preview is not None
            self._on_preview(preview(tensors["denoised"][0], self._decoder))
        if (step + 1) % pipeline.num_timesteps == 0:
            self._shares.append(self._record.take())
        return {}

    def attention(self) -> dict[str, list[float]]:
        """Return by subject name what share of their attention the frames paid to its references, for each latent
        frame of the whole video: 0 to 1, the mean over the conditional branch's heads, blocks and a few steps.

        Several views and intervals of a subject are summed; where windows overlap, it is their mean. Empty where
        nothing was observed, as when guidance makes no evaluation with both images and text.
        """
        observed = [*self._shares, self._record.take()][:len(self._windows)]
        pairs = [(window, shares[0]) for window, shares in zip(self._windows, observed, strict=False)
                 if shares is not None]
        if not pairs:
            return {}
        count = num_latents(max(window.frames[1] for window in self._windows) + 1)
        times = torch.zeros(count)
        sums = {subject.name: torch.zeros(count) for subject in self._windows[0].storyboard.subjects}
        for window, shares in pairs:
            first = window.frames[0] // TEMPORAL_STRIDE
            latents = slice(first, first + len(shares))
            times[latents] += 1
            for name, paid in _by_subject(window.storyboard, shares).items():
                sums[name][latents] += paid
        return {name: [round(value, _DIGITS) for value in (total / times.clamp(min=1)).tolist()]
                for name, total in sums.items()}


def _by_subject(board: Storyboard, shares: Tensor) -> dict[str, Any]:
    """Return by subject name the sum over its references of shares (T, N); they lie as the pipeline lays them, subject
    by subject, each with a reference for every view and interval."""
    counts = [len(subject.images) * len(subject.appears) for subject in board.subjects]
    parts = shares.split(counts, dim=1)
    return {subject.name: part.sum(1) for subject, part in zip(board.subjects, parts, strict=True)}
