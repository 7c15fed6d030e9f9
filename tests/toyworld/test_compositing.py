"""Compositing against a slow loop over pixels that knows nothing of patches."""

import math

import numpy as np
from PIL import Image

from alchemint.toyworld import compositing
from alchemint.toyworld.compositing import Actor
from alchemint.toyworld.motion import Poses

HEIGHT, WIDTH, NUM_FRAMES = 20, 26, 3


def poses(rng, lift=math.nan):
    def draw(low, high):
        return rng.uniform(low, high, NUM_FRAMES)

    scale_x = draw(0.6, 1.2) * rng.choice([-1, 1], NUM_FRAMES)
    return Poses(draw(-2, WIDTH + 2), draw(-2, HEIGHT + 2), scale_x, draw(0.6, 1.2), draw(-0.5, 0.5), draw(0.3, 1),
                 np.full(NUM_FRAMES, lift))


def actors(count, seed, lift=math.nan):
    rng = np.random.default_rng(seed)
    dressed = np.full((40, 30, 4), 255, np.uint8)
    dressed[..., :3] = rng.integers(0, 255, (40, 30, 3))
    return [Actor(compositing.picture_at(dressed, 9, 12), poses(rng, lift), 0) for _ in range(count)]


def sample(pixels, x, y):
    """Return the premultiplied RGBA at a point of a picture, bilinear, 0 outside."""
    height, width = pixels.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        return np.zeros(4)
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    share_x, share_y = x - 0.5 - left, y - 0.5 - top
    rows = [min(max(top + step, 0), height - 1) for step in (0, 1)]
    columns = [min(max(left + step, 0), width - 1) for step in (0, 1)]
    upper = pixels[rows[0], columns[0]] * (1 - share_x) + pixels[rows[0], columns[1]] * share_x
    lower = pixels[rows[1], columns[0]] * (1 - share_x) + pixels[rows[1], columns[1]] * share_x
    return upper * (1 - share_y) + lower * share_y


def slow_composite(frames, cast):
    """Return frames and each actor's alpha (actors, frames, height, width), pixel by pixel."""
    out, alphas = frames.astype(float), np.zeros((len(cast), *frames.shape[:3]))
    for number, actor in enumerate(cast):
        pixels = np.asarray(actor.picture).astype(float)
        motion, finer = actor.poses, compositing._FINENESS
        for frame in range(NUM_FRAMES):
            cos, sin = math.cos(motion.angle[frame]), math.sin(motion.angle[frame])
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    across, down = column + 0.5 - motion.x[frame], row + 0.5 - motion.y[frame]
                    x = (cos * across + sin * down) * finer / motion.scale_x[frame] + pixels.shape[1] / 2
                    y = (cos * down - sin * across) * finer / motion.scale_y[frame] + pixels.shape[0] / 2
                    rgba = sample(pixels, x, y) * motion.opacity[frame]
                    alphas[number, frame, row, column] = rgba[3]
                    out[frame, row, column] = rgba[:3] + out[frame, row, column] * (1 - rgba[3] / 255)
    return out, alphas


def test_composite_is_what_the_slow_loop_makes():
    frames = np.random.default_rng(9).integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    cast = actors(3, seed=4)
    expected, alphas = slow_composite(frames, cast)
    masks, full = compositing.composite(frames, cast)
    assert np.abs(frames - expected).max() <= 4
    for number in range(3):
        hidden = (alphas[number + 1:] > 127.5).any(0)
        near = (np.abs(alphas[number:] - 127.5) < 4).any(0)
        seen = (alphas[number] > 127.5) & ~hidden
        assert seen.any()
        assert np.array_equal(masks[number][~near], seen[~near])
        assert np.abs(full[number] - (alphas[number] > 127.5).sum((1, 2))).max() <= 3


def test_masks_of_different_subjects_share_no_pixel():
    frames = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    masks, full = compositing.composite(frames, actors(4, seed=5))
    assert masks.sum(0).max() == 1
    assert (masks.sum((2, 3)) <= full).all()


def test_a_shadow_darkens_the_ground_only_near_it():
    def darkness(lift):
        cast = actors(1, seed=6, lift=lift)
        frames = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 200, np.uint8)
        masks, _ = compositing.composite(frames, cast)
        outside = ~masks[0] & (np.abs(frames.astype(int) - 200).max(-1) > 0)
        return (200 - frames[outside].astype(int)).clip(0).sum()

    assert darkness(0.0) > darkness(math.nan)
    assert darkness(100.0) == darkness(math.nan)


def test_a_picture_outside_the_frame_leaves_no_trace():
    frames = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 7, np.uint8)
    still = np.ones(NUM_FRAMES)
    away = Poses(still * -50, still * 5, still, still, still * 0, still, still * math.nan)
    masks, full = compositing.composite(frames, [Actor(Image.new("RGBa", (9, 9), (9, 9, 9, 255)), away, 0)])
    assert (frames == 7).all() and not masks.any() and not full.any()
