"""Image and video files in and out. Whatever the package writes is written whole or not at all.

What reads videos lies in video_files, video_facts and lazy_frames, and can be had from here.

Shapes: an image is (height, width, 3), a video (frames, height, width, 3), both uint8 RGB.
"""

import os
import warnings
from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from itertools import chain

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from alchemint import storage
from alchemint.lazy_frames import LazyFrames as LazyFrames
from alchemint.storage import atomic_path
from alchemint.video_facts import VideoFacts as VideoFacts
from alchemint.video_facts import probe as probe
from alchemint.video_files import EXACT
from alchemint.video_files import frames_of as frames_of
from alchemint.video_files import read_frames as read_frames
from alchemint.video_files import read_video as read_video

NEUTRAL = 127
"""The grey of the canvas that references are laid on, in training and in use."""

CANVAS_SHARE = 0.8
"""The share of the canvas that a cut-out subject fills, in the direction in which it fills more."""

MAX_MEGAPIXELS = 64
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA")

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""

_WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def open_image(source: str | os.PathLike[str] | Image.Image | BytesIO) -> Image.Image:
    """Return an image upright and decoded, RGBA when part is transparent, else RGB; of a path, a URL, a file's bytes or
    a PIL image.

    Raises FileNotFoundError, or ValueError for a file that is no image, is cut short, has more than 64 megapixels (told
    from its header, before anything is decoded), or is transparent all over.
    """
    if isinstance(source, Image.Image):
        return _upright(source, "image")
    label = "the image" if isinstance(source, BytesIO) else f'image "{os.fspath(source)}"'
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images between its own limits; ours is checked right after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if not isinstance(source, BytesIO) and storage.is_url(source):
                source = BytesIO(storage.read_bytes(source))
            opened = Image.open(source, formats=IMAGE_FORMATS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{label} does not exist; correct its path") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{label} has more than {MAX_MEGAPIXELS} megapixels; make it smaller") from error
    except Exception as error:  # Pillow raises whatever its format readers stumble over
        raise ValueError(f"{label} is no readable image; allowed are {', '.join(IMAGE_FORMATS)}; "
                         "convert it to one of them") from error
    with opened:
        megapixels = opened.width * opened.height / 1e6
        if megapixels > MAX_MEGAPIXELS:
            raise ValueError(f"{label} has {megapixels:.1f} megapixels, but at most {MAX_MEGAPIXELS} are allowed; "
                             "make it smaller")
        try:
            opened.load()
        except Exception as error:  # as above
            raise ValueError(f"{label} cannot be decoded ({error}); save it again") from error
        return _upright(opened, label)


def _upright(image: Image.Image, label: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE_MODES:
        # Pillow would clip 16-bit grey values at 255 rather than scale them.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"{label} has floating-point pixels; save it with 8 or 16 bits per channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"))
    if not alpha.any():
        raise ValueError(f"{label} is transparent all over; give one that shows the subject")
    return image.convert("RGB") if (alpha == 255).all() else image


def reference_canvas(image: Image.Image, width: int, height: int, share: float = CANVAS_SHARE) -> np.ndarray:
    """Lay a reference image on the neutral canvas, (height, width, 3) uint8.

    With alpha: what is not transparent is scaled to fill `share` of the canvas in one direction and at most that in the
    other, and centred. Without alpha the whole image is fitted into the canvas, centred. The aspect ratio is kept.
    """
    canvas = np.full((height, width, 3), NEUTRAL, np.uint8)
    place = canvas_place(image, width, height, share)
    if place is None:
        return canvas
    box, (left, top), size = place
    # Premultiplied, so that the hidden colour of transparent pixels cannot bleed into the edges.
    image = image.crop(box).convert("RGBa") if image.mode == "RGBA" else image.convert("RGB")
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    target = canvas[top:top + size[1], left:left + size[0]]
    if pixels.shape[-1] == 3:
        target[:] = pixels
    else:
        through = (255 - pixels[..., 3:].astype(np.uint16)) * NEUTRAL + 127
        target[:] = np.minimum(pixels[..., :3] + through // 255, 255)
    return canvas


def canvas_place(image: Image.Image, width: int, height: int,
                 share: float = CANVAS_SHARE) -> tuple[Box, tuple[int, int], tuple[int, int]] | None:
    """Return which part of an image `reference_canvas` shows (left, top, right, bottom), and where on the canvas (left,
    top) and how large (width, height) it lies there, all in pixels; None where all of it is transparent."""
    box: Box | None = (0, 0, *image.size)
    if image.mode == "RGBA":
        box = image.getchannel("A").getbbox()
    else:
        share = 1.0
    if box is None:
        return None
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    scale = share * min(width / box_width, height / box_height)
    size = max(1, round(box_width * scale)), max(1, round(box_height * scale))
    return box, ((width - size[0]) // 2, (height - size[1]) // 2), size


def as_uint8(frames: ArrayLike) -> np.ndarray:
    """Convert 0..1, as pipelines of diffusers give frames, to uint8 0..255."""
    return (np.asarray(frames) * 255).round().astype(np.uint8)


def flattened(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return a cut-out (RGBA) laid on a plain colour, RGB; an image without alpha as it is."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_image(path: str | os.PathLike[str], image: Image.Image | np.ndarray) -> None:
    """Write an image file, whole or not at all; the suffix of `path` tells the format."""
    with atomic_path(path) as partial:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(partial)


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, crf: int = 12) -> None:
    """Write frames (height, width, 3) as H.264 that browsers play (yuv420p, BT.709), whole or not at all.

    `frames` is an array of them or whatever yields them one by one: none is kept, however long the video. `crf` is
    x264's quality, 0 (lossless) to 51 (worst). Raises ValueError for an empty video, for frames that are not uint8 RGB
    of one size, and for an odd width or height, which yuv420p cannot hold.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a video must have at least one frame, but there is none; give some")
    if first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8:
        raise ValueError(f"a video's frames must be uint8 of shape (height, width, 3), not {first.dtype} of "
                         f"{first.shape}; convert them")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"video size {width} x {height} has an odd side, which H.264 in yuv420p cannot hold; "
                         "pad or crop it to even sides")
    with atomic_path(path) as partial, av.open(partial, "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000), options=_x264_options(crf))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        stream.codec_context.color_range = ColorRange.MPEG
        for number, frame in enumerate(chain([first], frames)):
            if (frame.shape, frame.dtype) != (first.shape, first.dtype):
                raise ValueError(f"frame {number} of a video is {frame.dtype} of {frame.shape}, but the first is "
                                 f"{first.dtype} of {first.shape}; make all alike")
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(rgb.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG, interpolation=EXACT,
            )))
        file.mux(stream.encode())


def _x264_options(crf: int) -> dict[str, str]:
    # With its macroblock tree x264 made four different files in twelve writes of the same 64-pixel frames (measured).
    return {"crf": str(crf), "x264-params": "no-mbtree=1"}
