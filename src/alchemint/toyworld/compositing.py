"""Puts moving sprites on the frames of a background, back to front, and keeps who is seen where."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from alchemint.toyworld.motion import Poses

_FINENESS = 1.5
"""Picture pixels to a frame pixel: bilinear interpolation of a finer picture looks sharper than bicubic of one that
fits, and takes half the time."""

_BORDER = 2
"""Transparent pixels around a sprite, so that interpolation finds nothing outside it."""

_SHADOW = 0.28
"""Opacity of the shadow below a subject that touches the ground."""


@dataclass(frozen=True, eq=False)
class Actor:
    """A sprite (premultiplied RGBa, as `picture_at` makes it), its poses, and the frame at which it begins."""

    picture: Image.Image
    poses: Poses
    first: int


def picture_at(dressed: np.ndarray, width: float, height: float) -> Image.Image:
    """Return a sprite (uint8 RGBA) fit to be drawn `width` x `height` pixels large: premultiplied, with a border."""
    size = (max(2, round(width * _FINENESS)), max(2, round(height * _FINENESS)))
    small = Image.fromarray(dressed, "RGBA").convert("RGBa").resize(size, Image.Resampling.LANCZOS)
    bordered = Image.new("RGBa", (size[0] + 2 * _BORDER, size[1] + 2 * _BORDER))
    bordered.paste(small, (_BORDER, _BORDER))
    return bordered


def composite(frames: np.ndarray, actors: list[Actor]) -> tuple[np.ndarray, np.ndarray]:
    """Draw the actors onto `frames` in place, the first one farthest away.

    Args:
        frames: uint8 (frames, height, width, 3), the background.
        actors: the sprites, back to front.

    Returns:
        masks, bool (subjects, frames, height, width): the pixels where each is seen, that is where it is more than
        half opaque and nothing in front of it is; and full, int (subjects, frames): how many there would be if nothing
        were in front.
    """
    num_frames, height, width = frames.shape[:3]
    masks = np.zeros((len(actors), num_frames, height, width), bool)
    full = np.zeros((len(actors), num_frames), int)
    for number, actor in enumerate(actors):
        shadow = None if np.isnan(actor.poses.lift[0]) else _shadow(actor.picture)
        for step in range(len(actor.poses.x)):
            frame = actor.first + step
            if shadow is not None:
                _cast(frames[frame], shadow, actor.poses, step, actor.picture.height / _FINENESS)
            placed = _place(actor.picture, actor.poses, step, width, height)
            if placed is None:
                continue
            rows, columns, patch = placed
            alpha = patch[..., 3]
            region = frames[frame, rows, columns]
            through = region * (255 - alpha)[..., None].astype(np.uint16)
            region[:] = patch[..., :3] + ((through + 128 + (through >> 8)) >> 8).astype(np.uint8)
            solid = alpha > 127
            full[number, frame] = solid.sum()
            masks[:number, frame, rows, columns] &= ~solid
            masks[number, frame, rows, columns] = solid
    return masks, full


def to_sprite(actor: Actor, sprite_size: tuple[int, int], num_frames: int) -> np.ndarray:
    """Return, per frame, the affine map (frames, 2, 3) of points of the frame to points of the actor's sprite.

    Points are in pixels, of a sprite of `sprite_size` (width, height); a pixel's middle lies at one half. NaN where the
    actor is not on.
    """
    maps = np.full((num_frames, 2, 3), np.nan)
    inner = np.array([actor.picture.width, actor.picture.height]) - 2 * _BORDER
    scale = np.array(sprite_size) / inner
    for step in range(len(actor.poses.x)):
        to_picture = _to_picture(actor.picture, actor.poses, step)
        to_picture[:, 2] -= _BORDER
        maps[actor.first + step] = scale[:, None] * to_picture
    return maps


def _shadow(picture: Image.Image) -> np.ndarray:
    """Return the soft shadow of a picture as opacity, float32 (height, width) in 0..1."""
    width = round(picture.width / _FINENESS)
    height = max(4, round(width * 0.22))
    x = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    y = (np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1
    away = 1 - np.hypot(x[None], y[:, None])
    return (away * 2.2).clip(0, 1) * np.float32(_SHADOW)


def _place(picture: Image.Image, poses: Poses, step: int, width: int,
           height: int) -> tuple[slice, slice, np.ndarray] | None:
    """Return the rows and columns of the frame that a pose covers, and the patch to put there; None if outside."""
    x, y, scale_x, scale_y = (float(poses.x[step]), float(poses.y[step]), float(poses.scale_x[step]) / _FINENESS,
                              float(poses.scale_y[step]) / _FINENESS)
    cos, sin = float(np.cos(poses.angle[step])), float(np.sin(poses.angle[step]))
    half_width, half_height = picture.width * abs(scale_x) / 2, picture.height * abs(scale_y) / 2
    reach_x = abs(cos) * half_width + abs(sin) * half_height
    reach_y = abs(sin) * half_width + abs(cos) * half_height
    left, right = max(0, int(x - reach_x)), min(width, int(x + reach_x) + 1)
    top, bottom = max(0, int(y - reach_y)), min(height, int(y + reach_y) + 1)
    if left >= right or top >= bottom:
        return None
    (a, b, c), (d, e, f) = _to_picture(picture, poses, step).tolist()
    patch = np.asarray(picture.transform((right - left, bottom - top), Image.Transform.AFFINE,
                                         (a, b, c + a * left + b * top, d, e, f + d * left + e * top),
                                         Image.Resampling.BILINEAR))
    opacity = float(poses.opacity[step])
    if opacity < 1:
        patch = (patch * np.float32(opacity)).astype(np.uint8)
    # Resampling may leave colours a little above the alpha they are premultiplied with.
    return slice(top, bottom), slice(left, right), np.minimum(patch, patch[..., 3:])


def _to_picture(picture: Image.Image, poses: Poses, step: int) -> np.ndarray:
    """Return the affine map (2, 3) of points of the frame to points of an actor's picture, in pixels of each."""
    scale_x, scale_y = float(poses.scale_x[step]) / _FINENESS, float(poses.scale_y[step]) / _FINENESS
    cos, sin = float(np.cos(poses.angle[step])), float(np.sin(poses.angle[step]))
    turn = np.array([[cos / scale_x, sin / scale_x], [-sin / scale_y, cos / scale_y]])
    middle = np.array([picture.width / 2, picture.height / 2]) - turn @ (float(poses.x[step]), float(poses.y[step]))
    return np.column_stack([turn, middle])


def _cast(frame: np.ndarray, shadow: np.ndarray, poses: Poses, step: int, sprite_height: float) -> None:
    """Darken `frame` where the shadow of a pose falls; the higher above the ground, the fainter."""
    height, width = frame.shape[:2]
    shadow_height, shadow_width = shadow.shape
    lift = float(poses.lift[step])
    strength = float(poses.opacity[step]) * min(1.0, abs(float(poses.scale_x[step])) + 0.3)
    strength *= max(0.0, 1 - lift / sprite_height)
    feet = float(poses.y[step]) + lift + sprite_height * float(poses.scale_y[step]) / 2 - 1
    left = round(float(poses.x[step]) - shadow_width / 2)
    top = round(feet - shadow_height * 0.6)
    columns = slice(max(0, left), max(0, min(width, left + shadow_width)))
    rows = slice(max(0, top), max(0, min(height, top + shadow_height)))
    if strength < 0.05 or columns.start >= columns.stop or rows.start >= rows.stop:
        return
    part = shadow[rows.start - top:rows.stop - top, columns.start - left:columns.stop - left]
    region = frame[rows, columns]
    region[:] = region * (1 - part[..., None] * np.float32(strength))
