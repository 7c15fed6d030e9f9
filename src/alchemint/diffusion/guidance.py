"""Classifier-free guidance with two conditions: the reference images (I) and the text (T).

The model is evaluated with and without each, v(image, text): v00, vI0, v0T, vIT.

    chained   v = v00 + s_I (vI0 - v00) + s_T (vIT - vI0)
    joint     v = v00 + s_I (vI0 - v00) + s_T (v0T - v00) + s_IT (vIT - v00)

An evaluation whose weight in the sum is zero is never made. Dropping the images never drops their intervals.

Steps may go without a term: its condition is then on in every evaluation. Without the images' term v = vI0 + s_T (vIT -
vI0) in either mode, without the text's v = v0T + s_I (vIT - v0T), without both v = vIT.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is not needed to check options, and slow to load
    from torch import Tensor

Branch = tuple[bool, bool]
"""(with images, with text)"""

NEITHER, IMAGES, TEXT, BOTH = (False, False), (True, False), (False, True), (True, True)
MODES = ("chained", "joint")


@dataclass(frozen=True)
class Guidance:
    """How strongly images and text steer.

    mode: "chained" or "joint". image_scale s_I, text_scale s_T, joint_scale s_IT (joint mode only).
    interval: the part of the steps, as fractions [start, end), in which guidance is applied; outside it the model is
        evaluated once, with both conditions. image_interval, text_interval: the part in which the one term is.
    """

    mode: str = "chained"
    image_scale: float = 3.0
    text_scale: float = 4.0
    joint_scale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    image_interval: tuple[float, float] = (0.0, 1.0)
    text_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'guidance mode "{self.mode}" is unknown; use one of {", ".join(MODES)}')
        for name in ("image_scale", "text_scale", "joint_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"guidance {name} is {getattr(self, name)}; use a finite number")
        for name in ("interval", "image_interval", "text_interval"):
            start, end = getattr(self, name)
            if not 0 <= start <= end <= 1:
                raise ValueError(f"guidance {name} [{start:g}, {end:g}] must lie in [0, 1], start before end")

    def weights(self, fraction: float = 0.0, has_images: bool = True) -> dict[Branch, float]:
        """Return the weight of each evaluation that is needed at `fraction` (0..1) of the steps.

        They sum to 1. Without images, the branches with and without them are one and the same.
        """
        guided = _holds(self.interval, fraction)
        by_images, by_text = (guided and _holds(one, fraction) for one in (self.image_interval, self.text_interval))
        if not by_images:
            text_scale = self.text_scale if by_text else 1.0
            weights = {IMAGES: 1 - text_scale, BOTH: text_scale}
        elif not by_text:
            weights = {TEXT: 1 - self.image_scale, BOTH: self.image_scale}
        elif self.mode == "chained":
            weights = {NEITHER: 1 - self.image_scale, IMAGES: self.image_scale - self.text_scale,
                       BOTH: self.text_scale}
        else:
            weights = {NEITHER: 1 - self.image_scale - self.text_scale - self.joint_scale, IMAGES: self.image_scale,
                       TEXT: self.text_scale, BOTH: self.joint_scale}
        if not has_images:
            merged = {TEXT: 0.0, NEITHER: 0.0}
            for (_, text), weight in weights.items():
                merged[False, text] += weight
            weights = merged
        return {branch: weight for branch, weight in weights.items() if abs(weight) > 1e-12}

    def evaluations(self, fraction: float = 0.0, has_images: bool = True) -> list[Branch]:
        """Return the evaluations (with images, with text) needed at `fraction` (0..1) of the steps."""
        return list(self.weights(fraction, has_images))


def _holds(interval: tuple[float, float], fraction: float) -> bool:
    return interval[0] <= fraction < interval[1]


def combine(velocities: "dict[Branch, Tensor]", weights: dict[Branch, float]) -> "Tensor":
    """Return the weighted sum of the evaluations' velocities."""
    first, *others = weights
    total = velocities[first] * weights[first]
    for branch in others:
        total = total + velocities[branch] * weights[branch]
    return total
