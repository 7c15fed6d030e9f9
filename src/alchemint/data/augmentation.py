"""Changes to reference pictures, so that a model learns who is shown rather than to copy pixels: blur, zoom, colours.

Transparent pixels stay out of all of them: blur is done on premultiplied colours, and contrast is taken about the mean
of what is seen.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from alchemint import media

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class AugmentationOptions:
    """Strengths; 0 leaves a picture as it is, and each picture draws evenly between nothing and the full strength.

    blur: the radius, as a share of the subject's longer side. zoom: by how much a subject may be larger or smaller than
    else, 0.25 being a fifth smaller to a quarter larger; what does not fit the canvas is cut off. brightness, contrast,
    saturation: the share by which each may change, up or down.
    """

    blur: float = 0.01
    zoom: float = 0.25
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1

    def __post_init__(self) -> None:
        for name, strength in vars(self).items():
            if not 0 <= strength < 1:
                raise ValueError(f"{name} {strength:g}: the strength must be at least 0 and below 1")


NO_AUGMENTATION = AugmentationOptions(0.0, 0.0, 0.0, 0.0, 0.0)


def augmented_canvas(image: Image.Image, size: tuple[int, int], canvas_share: float, options: AugmentationOptions,
                     random: np.random.Generator) -> np.ndarray:
    """Lay a changed picture, RGB or RGBA, on the neutral canvas of (width, height); (height, width, 3) uint8.

    With no augmentation that is `media.reference_canvas`. A picture without alpha always fills the canvas.
    """
    visible = image.getchannel("A").getbbox() if image.mode == "RGBA" else (0, 0, *image.size)
    if visible is None:
        return media.reference_canvas(image, *size)
    radius = random.uniform(0, options.blur) * max(visible[2] - visible[0], visible[3] - visible[1])
    largest = np.log1p(options.zoom)
    zoom = float(np.exp(random.uniform(-largest, largest)))
    changes = [1 + random.uniform(-strength, strength)
               for strength in (options.brightness, options.contrast, options.saturation)]
    image = blurred(coloured(image, *changes), radius)
    share = canvas_share * zoom if image.mode == "RGBA" else max(1.0, zoom)
    if share <= 1:
        return media.reference_canvas(image, *size, share)
    return media.reference_canvas(middle(image, size, share), *size, share=1.0)


def coloured(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Return a picture with its colours scaled: all of them, about the mean of what is seen, and about their greys."""
    if brightness == contrast == saturation == 1:
        return image
    pixels = np.asarray(image).astype(np.float64)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    weights = alpha if alpha.size else np.ones_like(pixels[..., :1])
    colours *= brightness
    mean = (colours @ _LUMA * weights[..., 0]).sum() / weights.sum()
    colours[:] = mean + contrast * (colours - mean)
    grey = (colours @ _LUMA)[..., None]
    colours[:] = grey + saturation * (colours - grey)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Return a picture blurred by a Gaussian of `radius` pixels, its edges with it."""
    if radius <= 0:
        return image
    if image.mode != "RGBA":
        return image.filter(ImageFilter.GaussianBlur(radius))
    return image.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")


def middle(image: Image.Image, size: tuple[int, int], share: float) -> Image.Image:
    """Return the middle part of a picture that fits the canvas when the subject is scaled to fill `share` > 1 of it.

    Where nothing is seen there, the whole picture is returned.
    """
    visible = image.getchannel("A").getbbox() if image.mode == "RGBA" else None
    left, top, right, bottom = visible or (0, 0, *image.size)
    scale = share * min(size[0] / (right - left), size[1] / (bottom - top))
    width, height = min(right - left, size[0] / scale), min(bottom - top, size[1] / scale)
    x, y = (left + right - width) / 2, (top + bottom - height) / 2
    part = image.crop((round(x), round(y), max(round(x + width), round(x) + 1), max(round(y + height), round(y) + 1)))
    return image if part.mode == "RGBA" and part.getchannel("A").getbbox() is None else part
