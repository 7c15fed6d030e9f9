"""Image and video files: what is read rightly, what is refused, and that nothing half-written stays."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from alchemint import media

COLOURS = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255),
    (0, 0, 0), (127, 127, 127), (200, 120, 30), (30, 200, 220),
]


def stripes(num_frames: int = 9) -> np.ndarray:
    """A video of vertical stripes, 16 pixels wide, one of each colour."""
    row = np.repeat(np.array(COLOURS, np.uint8), 16, axis=0)
    return np.broadcast_to(row, (num_frames, 48, *row.shape)).copy()


def checkered(width: int, height: int) -> Image.Image:
    """A picture whose four quarters differ: red, green / blue, white."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate(COLOURS[:4]):
        x, y = number % 2 * width // 2, number // 2 * height // 2
        image.paste(colour, (x, y, x + width // 2, y + height // 2))
    return image


def close_to(pixel: np.ndarray, colour: tuple[int, ...], tolerance: int = 2) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


def test_colours_survive_a_video_file(tmp_path: Path) -> None:
    frames = stripes()
    media.write_video(tmp_path / "a.mp4", frames, fps=7.5)
    read, fps = media.read_video(tmp_path / "a.mp4")
    assert (read.shape, read.dtype, fps) == (frames.shape, np.uint8, 7.5)
    assert all(close_to(read[4, 24, 16 * index + 8], colour) for index, colour in enumerate(COLOURS))


def test_luma_follows_bt709_and_is_tagged_so(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", stripes(), fps=8)
    with av.open(tmp_path / "a.mp4") as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        plane = next(file.decode(video=0)).planes[0]
        luma = np.asarray(plane, np.uint8).reshape(-1, plane.line_size)
    for index, colour in enumerate(COLOURS):
        expected = 16 + 219 * np.dot((0.2126, 0.7152, 0.0722), colour) / 255
        assert abs(luma[24, 16 * index + 8] - expected) <= 1.5


def test_the_index_lies_before_the_frames(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", stripes(), fps=8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("num_frames", [1, 2, 33])
def test_every_frame_comes_back_in_order(tmp_path: Path, num_frames: int) -> None:
    levels = np.linspace(20, 230, num_frames).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (num_frames, 32, 32, 3))
    media.write_video(tmp_path / "a.mp4", frames, fps=8)
    read, _ = media.read_video(tmp_path / "a.mp4")
    assert np.abs(read.mean((1, 2, 3)) - levels).max() < 2


def test_x264_runs_without_what_makes_its_files_differ(tmp_path: Path) -> None:
    """x264 records its settings in the file. The race itself shows on few videos only, and not every time."""
    media.write_video(tmp_path / "a.mp4", stripes(), fps=8)
    assert b"mbtree=0" in (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize(("frames", "message"), [
    (np.zeros((2, 31, 32, 3), np.uint8), "odd side"),
    (np.zeros((2, 32, 32, 3), np.float32), "must be uint8"),
    (np.zeros((0, 32, 32, 3), np.uint8), "at least one frame"),
    (np.zeros((2, 32, 32), np.uint8), "must be uint8 of shape"),
])
def test_a_video_that_cannot_be_written_is_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "a.mp4", frames, fps=8)
    assert list(tmp_path.iterdir()) == []


def test_frames_may_come_one_by_one(tmp_path: Path) -> None:
    frames = stripes(33)
    media.write_video(tmp_path / "whole.mp4", frames, fps=8)
    media.write_video(tmp_path / "streamed.mp4", (frame for frame in frames), fps=8)
    assert (tmp_path / "streamed.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize(("fault", "num_frames"), [
    (KeyboardInterrupt(), 0), (KeyboardInterrupt(), 1), (SystemExit(143), 50), (ValueError("a fault"), 50)])
def test_frames_that_break_off_leave_no_file(tmp_path: Path, fault: BaseException, num_frames: int) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from stripes(num_frames)
        raise fault

    with pytest.raises(type(fault)):
        media.write_video(tmp_path / "a.mp4", frames(), fps=8)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_several_sizes_are_refused(tmp_path: Path) -> None:
    sizes = (np.zeros((32, width, 3), np.uint8) for width in (32, 32, 64))
    with pytest.raises(ValueError, match=r"frame 2 of a video is uint8 of \(32, 64, 3\), but the first"):
        media.write_video(tmp_path / "a.mp4", sizes, fps=8)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match="not a readable video"):
        media.read_video(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError):
        media.read_video(tmp_path / "b.mp4")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, interruption: type[BaseException]) -> None:
    media.write_text(tmp_path / "a.txt", "before")
    with pytest.raises(interruption), media.atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise interruption
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_an_interrupted_encoder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter(range(3))

    def interrupted(*_: object, **__: object) -> av.VideoFrame:
        if next(shown, None) is None:
            raise KeyboardInterrupt
        return av.VideoFrame(32, 32, "rgb24")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", interrupted)
    with pytest.raises(KeyboardInterrupt):
        media.write_video(tmp_path / "a.mp4", np.zeros((9, 32, 32, 3), np.uint8), fps=8)
    assert list(tmp_path.iterdir()) == []


def test_files_are_made_with_their_folder_and_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    media.write_image(path, np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_exif_rotated_image_is_turned_upright(tmp_path: Path) -> None:
    upright = checkered(32, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(media.open_image(tmp_path / "a.png"), upright)


def test_palette_grey_and_cmyk_images_become_rgb(tmp_path: Path) -> None:
    checkered(16, 16).quantize(8).save(tmp_path / "palette.png")
    checkered(16, 16).convert("L").save(tmp_path / "grey.png")
    checkered(16, 16).convert("CMYK").save(tmp_path / "cmyk.tiff")
    for name, corner in (("palette.png", (255, 0, 0)), ("grey.png", (76, 76, 76)), ("cmyk.tiff", (255, 0, 0))):
        image = media.open_image(tmp_path / name)
        assert image.mode == "RGB"
        assert image.getpixel((2, 2)) == corner


def test_transparency_of_every_kind_becomes_alpha(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("LA", (4, 4), (90, 100)).save(tmp_path / "grey.png")
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "opaque key.png", transparency=(9, 9, 9))
    assert media.open_image(tmp_path / "palette.png").getpixel((1, 1)) == (0, 255, 0, 255)
    assert media.open_image(tmp_path / "palette.png").getpixel((0, 0))[3] == 0
    assert media.open_image(tmp_path / "grey.png").getpixel((0, 0)) == (90, 90, 90, 100)
    assert media.open_image(tmp_path / "opaque key.png").mode == "RGB"
    assert media.open_image(Image.new("RGBA", (4, 4), (1, 2, 3, 255))).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert media.open_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


def test_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.effect_noise((64, 64), 90).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:2000])
    (tmp_path / "note.png").write_text("no image")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, message in (
        ("torn.png", "cannot be decoded"),
        ("note.png", "no readable image"),
        ("drawing.eps", "no readable image"),
        (".", "no readable image"),
    ):
        with pytest.raises(ValueError, match=message):
            media.open_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r'image ".*none.png" does not exist'):
        media.open_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="transparent all over"):
        media.open_image(Image.new("RGBA", (4, 4)))


@pytest.mark.parametrize("side", [8_200, 60_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, 1)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    header = data.index(b"IHDR")
    data[header + 8:header + 12] = side.to_bytes(4, "big")  # claims to be square
    data[header + 17:header + 21] = zlib.crc32(data[header:header + 17]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="megapixels"):
        media.open_image(tmp_path / "a.png")


@pytest.mark.parametrize(("size", "canvas"), [((30, 20), (64, 64)), ((200, 900), (96, 64)), ((5, 5), (128, 96))])
def test_a_cut_out_subject_fills_most_of_the_canvas(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    image = Image.new("RGBA", (size[0] + 50, size[1] + 70), (255, 0, 0, 0))
    image.paste((10, 250, 30, 255), (40, 13, 40 + size[0], 13 + size[1]))
    width, height = canvas
    laid = media.reference_canvas(image, width, height)
    assert laid.shape == (height, width, 3)
    drawn = (laid != media.NEUTRAL).any(-1)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    drawn_height, drawn_width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = 0.8 * min(width / size[0], height / size[1])
    assert abs(drawn_width - scale * size[0]) <= 1 and abs(drawn_height - scale * size[1]) <= 1
    assert abs(rows[0] + rows[-1] - (height - 1)) <= 1 and abs(columns[0] + columns[-1] - (width - 1)) <= 1
    assert close_to(laid[height // 2, width // 2], (10, 250, 30), 1)


def test_hidden_colours_do_not_bleed_into_the_edges() -> None:
    image = Image.new("RGBA", (200, 200), (255, 0, 255, 0))
    image.paste((127, 127, 127, 255), (50, 50, 150, 150))
    assert np.abs(media.reference_canvas(image, 64, 64).astype(int) - media.NEUTRAL).max() <= 1


def test_half_transparent_pixels_are_mixed_with_the_canvas() -> None:
    laid = media.reference_canvas(Image.new("RGBA", (50, 50), (255, 255, 255, 128)), 64, 64)
    assert close_to(laid[32, 32], (191, 191, 191), 1)


def test_an_image_without_alpha_is_fitted_whole() -> None:
    laid = media.reference_canvas(checkered(40, 20), 64, 64)
    assert (laid[:16] == media.NEUTRAL).all() and (laid[48:] == media.NEUTRAL).all()
    assert close_to(laid[20, 8], COLOURS[0]) and close_to(laid[44, 56], COLOURS[3])


def test_an_empty_cut_out_is_the_bare_canvas() -> None:
    assert (media.reference_canvas(Image.new("RGBA", (9, 9)), 32, 16) == media.NEUTRAL).all()


def test_a_cut_out_is_laid_on_a_colour() -> None:
    cut_out = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    cut_out.putpixel((1, 0), (9, 9, 9, 0))
    laid = media.flattened(cut_out, (10, 20, 30))
    assert (laid.mode, laid.getpixel((0, 0)), laid.getpixel((1, 0))) == ("RGB", (200, 0, 0), (10, 20, 30))
    plain = Image.new("RGB", (2, 1))
    assert media.flattened(plain, (10, 20, 30)) is plain
