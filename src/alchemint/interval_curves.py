"""The curves K(t) of a storyboard: how strongly the interval encoding of a model calls each subject at each latent.

They are computed from the encoding and the transformer's config alone; no weights are loaded. What training makes of
them is another matter.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from alchemint import timeline
from alchemint.model.encodings import ENCODINGS, Intervals, WeropeWeights, attention_proxy, temporal_freqs
from alchemint.model.rotary import AlchemintRotaryPosEmbed
from alchemint.storyboard import Storyboard


def curves(board: Storyboard, encoding: str, transformer: Mapping[str, Any],
           window: int | None = None) -> dict[str, list[np.ndarray]]:
    """Return by subject name K(t) for t = 0 .. T-1 of each of its intervals (`encodings.attention_proxy`).

    board: resolved. encoding: a name of `ENCODINGS`, the model's own or another. transformer: the config of an
    AlcheMinT transformer. window: frames that are made at once, all when None. In a longer video each window encodes
    its own part of an interval: where windows overlap it is their mean, and 0 where none has a part.

    Raises ValueError for an unknown encoding.
    """
    assert board.fps and board.num_frames, "resolve the storyboard first"
    weights = WeropeWeights(transformer["werope_inside"], transformer["werope_outside"])
    rotary = AlchemintRotaryPosEmbed(
        transformer["attention_head_dim"], tuple(transformer["patch_size"]), encoding, weights,
        transformer["num_word_tokens"], transformer["rope_theta"])
    freqs = temporal_freqs(rotary.num_temporal_pairs, rotary.theta)
    windows = [(0, board.num_frames - 1)]
    if window is not None and window < board.num_frames:
        windows = timeline.windows(board.num_frames, window, timeline.num_shared_frames(None, window, board.fps))

    def curve(index: int, interval: timeline.Seconds) -> np.ndarray:
        assert board.fps and board.num_frames
        count = timeline.num_latents(board.num_frames)
        shown = timeline.frames_in(interval, board.fps, board.num_frames)
        total, times = np.zeros(count), np.zeros(count)
        for first, last in windows:
            part = None if shown is None else timeline.frames_of_window(shown, range(first, last + 1))
            if part is None:
                continue
            latents = slice(first // timeline.TEMPORAL_STRIDE, last // timeline.TEMPORAL_STRIDE + 1)
            size = timeline.num_latents(last - first + 1)
            spans = torch.tensor(timeline.latent_span(part))
            multiplier = ENCODINGS[encoding](Intervals(spans, torch.tensor(index), size), freqs, weights)
            total[latents] += attention_proxy(multiplier, size, freqs).numpy()
            times[latents] += 1
        return total / np.maximum(times, 1)

    return {subject.name: [curve(index, interval) for interval in subject.appears]
            for index, subject in enumerate(board.subjects)}
