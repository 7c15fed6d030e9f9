"""The node that makes a subject of pictures, a word and times; several are chained to a list."""

from typing import TYPE_CHECKING, Any

from .pictures import BACKGROUND, MASK_SHOWS, pictures_of
from .timed_text import parse_intervals
from .types_of_links import SUBJECTS

if TYPE_CHECKING:
    import torch

    from alchemint.storyboard import Subject


class SubjectNode:
    """One subject, appended to those of `after`."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = (SUBJECTS,), ("subjects",)
    DESCRIPTION = "Somebody or something that is on screen at given times and looks like its pictures."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        return {
            "required": {
                "word": ("STRING", {"default": "fox", "tooltip": "The word or phrase that names it in the prompt."}),
                "images": ("IMAGE", {"tooltip": "One or more views; each picture of the batch is one."}),
                "when": ("STRING", {"default": "0.5-3", "tooltip": "When it is on screen, in seconds: 0.5-3, 4-5"}),
            },
            "optional": {
                "after": (SUBJECTS, {"tooltip": "The subjects before this one."}),
                "mask": ("MASK", {"tooltip": "Cuts the pictures out: one for all, or one for each."}),
                "mask_shows": (list(MASK_SHOWS), {"default": BACKGROUND, "tooltip": (
                    "What the mask is 1 on: the background with LoadImage's, the subject with a segmenter's.")}),
                "name": ("STRING", {"default": "", "tooltip": (
                    "Names it in messages, and matches a subject of the timeline; the word when empty.")}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, when: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """Tell whether the times can be read, before anything runs; they are not known yet where they are wired."""
        try:
            if when is not None:
                parse_intervals(when)
        except ValueError as error:
            return str(error)
        return True

    def run(self, word: str, images: "torch.Tensor", when: str, after: "tuple[Subject, ...]" = (),
            mask: "torch.Tensor | None" = None, mask_shows: str = BACKGROUND, name: str = ""
            ) -> "tuple[tuple[Subject, ...]]":
        """Return the subjects of `after` and this one; ValueError with all its faults."""
        from alchemint.storyboard import Storyboard, Subject
        from alchemint.storyboard_faults import image_faults

        taken = {subject.name for subject in after}
        subject = Subject(name=name.strip() or _unused(word, taken), word=word,
                          images=pictures_of(images, mask, mask_shows), appears=parse_intervals(when))
        # What is wrong with a subject is told at its own node.
        if faults := list(image_faults(Storyboard(prompt="any", subjects=(*after, subject)))):
            raise ValueError("\n".join(faults))
        return ((*after, subject),)


def _unused(word: str, taken: set[str]) -> str:
    number, name = 1, word
    while name in taken:
        number += 1
        name = f"{word} {number}"
    return name
