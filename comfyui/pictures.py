"""Pictures: ComfyUI's IMAGE and MASK tensors as PIL images, and names of files in its input folder as paths."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

BACKGROUND, SUBJECT = "the background", "the subject"
MASK_SHOWS = (BACKGROUND, SUBJECT)
"""What a MASK is 1 on. LoadImage's is 1 where a picture is transparent, those of segmenters where the subject is."""

LONGEST_NAME = 1000


def pictures_of(images: "torch.Tensor", mask: "torch.Tensor | None" = None, mask_shows: str = BACKGROUND
                ) -> "tuple[Image.Image, ...]":
    """Return an IMAGE batch (batch, height, width, 3 or 4) float 0..1 as pictures, RGB, or RGBA where there is alpha.

    mask: (batch or 1, height, width) or (height, width), float 0..1; `mask_shows` tells on what it is 1. One that is
    the same all over has no shape, whatever its size: LoadImage gives such a one for a picture without alpha.

    Raises ValueError for a mask of another size or number than the pictures.
    """
    import numpy as np
    from PIL import Image

    pixels = _as_uint8(images)
    if pixels.ndim != 4 or pixels.shape[-1] not in (3, 4):
        raise ValueError(f"images are {tuple(pixels.shape)}, but must be (batch, height, width, 3 or 4)")
    if mask is not None:
        alpha = _alpha(mask, pixels.shape[:3], mask_shows)
        if alpha is not None:
            pixels = np.concatenate([pixels[..., :3], alpha[..., None]], -1)
    return tuple(Image.fromarray(picture) for picture in pixels)


def _alpha(mask: "torch.Tensor", shape: tuple[int, ...], mask_shows: str) -> "np.ndarray | None":
    """Return a mask as alpha (batch, height, width) uint8; None where it cuts nothing out."""
    import numpy as np

    if mask_shows not in MASK_SHOWS:
        raise ValueError(f'mask_shows "{mask_shows}" is unknown; use one of {", ".join(MASK_SHOWS)}')
    values = _as_uint8(mask if mask.ndim == 3 else mask.unsqueeze(0))
    alpha = 255 - values if mask_shows == BACKGROUND else values
    if (alpha == 255).all():
        return None
    if (alpha == 0).all():
        raise ValueError(f"the mask is {values.flat[0] / 255:g} all over and shows {mask_shows}, which leaves nothing "
                         f"of the picture; choose the other of {', '.join(MASK_SHOWS)}, or leave the mask unwired")
    if alpha.shape[1:] != shape[1:] or len(alpha) not in (1, shape[0]):
        counts = f"{len(alpha)} of {alpha.shape[2]} x {alpha.shape[1]}"
        raise ValueError(f"masks are {counts}, but the pictures {shape[0]} of {shape[2]} x {shape[1]}; "
                         "scale them alike, and give one mask for all pictures or one for each")
    return np.broadcast_to(alpha, shape)


def _as_uint8(values: "torch.Tensor") -> "np.ndarray":
    return (values.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def path_of(name: object, folder: Path) -> Path:
    """Return the path of a file that a storyboard names, below `folder`, ComfyUI's input folder.

    Raises ValueError for whatever is no name of a file there: a storyboard may come from anybody, and must not have
    other files read. Whether the file is there is not asked.
    """
    from alchemint.document import quoted

    fault = f"image {quoted(name)} is no file of ComfyUI's input folder; upload it, and name it as it is called there"
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or set(name) & set("\0\\:"):
        raise ValueError(fault)
    try:
        root = folder.resolve()
        path = (root / name).resolve()
    except OSError as error:  # too long, or links in a circle
        raise ValueError(fault) from error
    if Path(name).is_absolute() or path == root or not path.is_relative_to(root):
        raise ValueError(fault)
    return path
