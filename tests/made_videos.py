"""Video files as tests want them: any frames, times, codec and container, and how they are to be turned."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def random_blocks(num_frames: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Frames of random colours in blocks of eight pixels, no two alike."""
    blocks = np.random.default_rng(seed).integers(
        0, 256, (num_frames, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width]


def made(path: Path, frames: np.ndarray, rate: Fraction | int = 25, *, codec: str = "libx264", pix_fmt: str = "yuv420p",
         x264: str = "bframes=2:keyint=10", container: str | None = None, times: Sequence[int] | None = None,
         matrix: Sequence[int] | None = None, **options: str) -> Path:
    """Encode frames (frames, height, width, 3); `times` are those of the frames in milliseconds."""
    with av.open(path, "w", format=container, options=options) as file:
        settings = {"crf": "1", "x264-params": x264} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate=rate, options=settings)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
