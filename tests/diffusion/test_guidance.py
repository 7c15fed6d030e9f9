"""Guidance against its printed formulas, and that nothing is evaluated in vain."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from alchemint.diffusion.guidance import BOTH, IMAGES, NEITHER, TEXT, Branch, Guidance, combine

SCALES = [0.0, 1.0, 2.5]
GUIDANCES = [Guidance("chained", image, text) for image, text in product(SCALES, SCALES)] + [
    Guidance("joint", *scales) for scales in product(SCALES, SCALES, SCALES)]

Velocities = dict[Branch, torch.Tensor]


def formula(guidance: Guidance, v: Velocities) -> torch.Tensor:
    """The sum as printed, all branches evaluated."""
    s_i, s_t, s_it = guidance.image_scale, guidance.text_scale, guidance.joint_scale
    if guidance.mode == "chained":
        return v[NEITHER] + s_i * (v[IMAGES] - v[NEITHER]) + s_t * (v[BOTH] - v[IMAGES])
    return (v[NEITHER] + s_i * (v[IMAGES] - v[NEITHER]) + s_t * (v[TEXT] - v[NEITHER])
            + s_it * (v[BOTH] - v[NEITHER]))


@pytest.fixture
def velocities() -> Velocities:
    random = torch.Generator().manual_seed(0)
    return {branch: torch.randn(2, 3, 4, generator=random, dtype=torch.float64)
            for branch in (NEITHER, IMAGES, TEXT, BOTH)}


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("has_images", [True, False])
def test_the_sum_is_the_formula_and_needs_each_of_its_evaluations(
    guidance: Guidance, has_images: bool, velocities: Velocities
) -> None:
    if not has_images:
        velocities[IMAGES], velocities[BOTH] = velocities[NEITHER], velocities[TEXT]
    expected = formula(guidance, velocities)
    assert torch.allclose(combine(velocities, guidance.weights(0.0, has_images)), expected)

    distinct = (NEITHER, IMAGES, TEXT, BOTH) if has_images else (NEITHER, TEXT)
    needed = set()
    for branch in distinct:
        same = [branch] if has_images else [branch, (True, branch[1])]
        disturbed = {**velocities, **dict.fromkeys(same, velocities[branch] + 1)}
        if not torch.allclose(formula(guidance, disturbed), expected):
            needed.add(branch)
    assert set(guidance.evaluations(0.0, has_images)) == needed


def test_unguided_is_one_evaluation() -> None:
    assert Guidance("chained", 1.0, 1.0).evaluations() == [BOTH]
    assert Guidance("joint", 0.0, 0.0, 1.0).evaluations() == [BOTH]
    assert Guidance("chained", 0.0, 0.0).evaluations() == [NEITHER]
    assert Guidance("chained", 5.0, 0.0).evaluations() == [NEITHER, IMAGES]


def test_equal_branches_need_no_guidance(velocities: Velocities) -> None:
    same = dict.fromkeys(velocities, velocities[BOTH])
    for guidance in GUIDANCES:
        assert torch.allclose(combine(same, guidance.weights()), velocities[BOTH])


@pytest.mark.parametrize(("fraction", "guided"), [
    (0.0, False), (0.24, False), (0.25, True), (0.74, True), (0.75, False)])
def test_outside_its_interval_the_model_is_evaluated_once(fraction: float, guided: bool) -> None:
    guidance = Guidance(interval=(0.25, 0.75))
    assert guidance.weights(fraction) == (Guidance().weights() if guided else {BOTH: 1.0})
    without_images = guidance.weights(fraction, has_images=False)
    assert without_images == (Guidance().weights(has_images=False) if guided else {TEXT: 1.0})


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("has_images", [True, False])
def test_a_term_that_is_left_out_keeps_its_condition_on(
    guidance: Guidance, has_images: bool, velocities: Velocities
) -> None:
    if not has_images:
        velocities[IMAGES], velocities[BOTH] = velocities[NEITHER], velocities[TEXT]
    late = replace(guidance, image_interval=(0.0, 0.5), text_interval=(0.25, 1.0))
    both, text, images = velocities[BOTH], velocities[TEXT], velocities[IMAGES]
    expected = {0.0: text + guidance.image_scale * (both - text), 0.3: formula(guidance, velocities),
                0.5: images + guidance.text_scale * (both - images)}
    for fraction, value in expected.items():
        weights = late.weights(fraction, has_images)
        assert torch.allclose(combine(velocities, weights), value)
        if fraction != 0.3:
            assert len(weights) <= 2
    assert replace(late, text_interval=(0.0, 0.5)).weights(0.5, has_images) == {BOTH if has_images else TEXT: 1.0}


def test_the_last_step_is_guided_by_default() -> None:
    assert Guidance().evaluations(39 / 40) == Guidance().evaluations(0.0)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match='"chain" is unknown; use one of chained, joint'):
        Guidance("chain")
    for interval, name in product(((0.5, 0.2), (-0.1, 1.0), (0.0, 1.5)), ("interval", "image_interval",
                                                                          "text_interval")):
        with pytest.raises(ValueError, match=f"guidance {name} .* must lie in"):
            Guidance(**{name: interval})
