"""Which picture shows a clip's entity, and the picture itself. A reference from within the window would teach a model
to copy, so such a one is taken only where there is no other, and marked."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from alchemint import media, storage
from alchemint.masks import mask_at
from alchemint.records import ClipRecord
from alchemint.storage import Address


@dataclass(frozen=True)
class Pick:
    """Where an entity's reference comes from: an image file, or a frame of the clip that is cut out by the mask."""

    entity: int
    image: str | None = None
    frame: int | None = None
    inside: bool = False
    """Whether it shows the entity within the window."""


def pick_reference(record: ClipRecord, entity: int, window: tuple[int, int], min_area: float,
                   random: np.random.Generator) -> Pick:
    """Draw a reference for an entity that is seen in a window, the clip's frames first .. last.

    Pictures taken apart from the clip come first, all alike. Next come frames outside the window in which the entity
    fills more than `min_area` of the frame, by area; then pictures of other frames outside. Only then frames inside.
    """
    references, track = record.entities[entity].references, record.entities[entity].track
    apart = [reference for reference in references if reference.frame is None]
    if apart:
        return Pick(entity, image=apart[random.integers(len(apart))].image)
    areas = np.asarray(track.areas, np.float64)
    outside = np.ones(len(areas), bool)
    outside[window[0]:window[1] + 1] = False
    large = areas > min_area * record.width * record.height
    files = [reference for reference in references if outside[_checked(reference.frame, record)]]
    if (large & outside).any():
        return Pick(entity, frame=_drawn(areas * (large & outside), random))
    if files:
        return Pick(entity, image=files[random.integers(len(files))].image)
    return Pick(entity, frame=_drawn(areas * ~outside, random), inside=True)


def cut_out(record: ClipRecord, entity: int, number: int, frame: np.ndarray) -> Image.Image:
    """Return an entity as frame number `number` of its clip shows it, RGBA: transparent where its mask is not."""
    mask = mask_at(record.entities[entity].track, number, (record.width, record.height))
    return Image.fromarray(np.dstack([frame, np.uint8(255) * mask]))


def open_picture(folder: Address, image: str) -> Image.Image:
    """Return the reference image file of a record in `folder`, RGB or RGBA."""
    return media.open_image(storage.join(folder, image))


def _drawn(weights: np.ndarray, random: np.random.Generator) -> int:
    return int(random.choice(len(weights), p=weights / weights.sum()))


def _checked(frame: int | None, record: ClipRecord) -> int:
    if frame is None or not 0 <= frame < record.num_frames:
        raise ValueError(f"a reference says that it shows frame {frame}, but the clip has {record.num_frames}; "
                         "correct the record")
    return frame
