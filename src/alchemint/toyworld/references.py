"""References: pictures of a subject's instance taken apart, in another pose, light and scale than in the clip."""

import numpy as np
from PIL import Image


def draw_reference(rng: np.random.Generator, dressed: np.ndarray, size: int,
                   mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Take a picture of a dressed sprite (uint8 RGBA).

    The sprite is mirrored where asked, turned by up to 12 degrees, slightly stretched, lit brighter or darker with a
    tint, and framed tightly: its long side fills the picture but for a pixel on either side.

    Returns the picture, uint8 RGBA (size, size, 4), transparent around the subject; and the affine map (2, 3) of points
    of the sprite to points of the picture, in pixels.
    """
    picture = Image.fromarray(dressed, "RGBA").convert("RGBa")
    to_picture = np.eye(3)
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        to_picture = np.array([[-1.0, 0, picture.width], [0, 1, 0], [0, 0, 1]])
    stretch = float(rng.uniform(0.94, 1.06))
    degrees = float(rng.uniform(2, 12)) * (1 if rng.random() < 0.5 else -1)
    turned, turn = _turned(picture, np.deg2rad(degrees), stretch)
    box = turned.getchannel("a").point(lambda value: 255 if value > 16 else 0).getbbox()
    assert box is not None
    room = (size - 2) * float(rng.uniform(0.9, 1.0))
    scale = room / max(box[2] - box[0], box[3] - box[1])
    fitted = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    small = turned.resize(fitted, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    corner = ((size - fitted[0]) // 2, (size - fitted[1]) // 2)
    framed = Image.new("RGBa", (size, size))
    framed.paste(small, corner)
    reference = np.array(framed.convert("RGBA"))
    light = rng.uniform(0.86, 1.12) * rng.uniform(0.96, 1.04, 3)
    reference[..., :3] = (reference[..., :3] * light.astype(np.float32)).clip(0, 255)
    reference[..., :3] *= reference[..., 3:] > 0
    shrink = np.array([fitted[0] / (box[2] - box[0]), fitted[1] / (box[3] - box[1])])
    frame = np.column_stack([np.diag(shrink), np.array(corner) - shrink * box[:2]])
    return reference, frame @ turn @ to_picture


def _turned(picture: Image.Image, angle: float, stretch: float) -> tuple[Image.Image, np.ndarray]:
    """Return the picture stretched horizontally and turned by `angle` radians, on a canvas that holds all of it, and
    the map (3, 3) of the picture's points to the canvas's."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    wide, high = picture.width * stretch, picture.height / stretch
    width, height = (int(abs(cos) * wide + abs(sin) * high) + 3, int(abs(sin) * wide + abs(cos) * high) + 3)
    to_sprite = (cos / stretch, sin / stretch, picture.width / 2 - (cos * width / 2 + sin * height / 2) / stretch,
                 -sin * stretch, cos * stretch, picture.height / 2 + (sin * width / 2 - cos * height / 2) * stretch)
    turned = picture.transform((width, height), Image.Transform.AFFINE, to_sprite, Image.Resampling.BILINEAR)
    return turned, np.linalg.inv(np.array([to_sprite[:3], to_sprite[3:], (0, 0, 1)]))
