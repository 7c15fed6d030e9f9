"""Looks: instances differ, stand out from what is behind them, and keep the sprite's shape and outline."""

import numpy as np
import pytest

from alchemint.toyworld import looks, sprites

FOX = next(subject for subject in sprites.subjects("train") if subject.word == "fox")


def test_instances_of_one_subject_look_different():
    rng = np.random.default_rng(0)
    grey = np.array([128.0, 128, 128])
    fox = sprites.sprite(FOX)
    dressed = [looks.dress(fox, looks.draw_look(rng, grey))[..., :3] for _ in range(40)]
    means = np.array([instance[fox.alpha > 200].mean(0) for instance in dressed])
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)[np.triu_indices(40, 1)]
    assert np.median(apart) > 60
    assert (apart > 1).all()


@pytest.mark.parametrize("behind", list(looks.COLOURS.values()))
def test_a_look_stands_out_from_any_background(behind):
    rng = np.random.default_rng(1)
    for _ in range(30):
        look = looks.draw_look(rng, np.array(behind, float))
        assert np.linalg.norm(np.subtract(looks.COLOURS[look.colour], behind)) > 80


def test_taken_colours_are_not_drawn_again_and_plain_is_plain():
    rng = np.random.default_rng(2)
    taken = ("red", "blue", "green", "purple")
    drawn = [looks.draw_look(rng, np.array([250.0, 250, 250]), taken, plain=True) for _ in range(100)]
    assert not {look.colour for look in drawn} & set(taken)
    assert {look.pattern for look in drawn} == {"plain"}


@pytest.mark.parametrize("pattern", looks.PATTERNS)
def test_dressing_keeps_shape_and_outline_and_shows_the_pattern(pattern):
    fox = sprites.sprite(FOX)
    plain, patterned = (looks.dress(fox, looks.Look("blue", (60.0, 118.0, 226.0), (246.0, 208.0, 62.0), shape, 0.6,
                                                    0.35, 0.1)).astype(int) for shape in ("plain", pattern))
    assert np.array_equal(patterned[..., 3], fox.alpha)
    outline = (fox.level < 45) & (fox.alpha > 200)
    assert patterned[outline][:, :3].max(1).mean() < 90
    body = (fox.alpha > 200) & (fox.level > 120)
    assert plain[body][:, 2].mean() > plain[body][:, 0].mean() + 40
    changed = (np.abs(patterned - plain)[body].max(-1) > 40).mean()
    assert changed == 0 if pattern == "plain" else 0.15 < changed < 0.85
