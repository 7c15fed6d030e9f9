"""The nodes that make a storyboard: by dragging on a timeline, of wired subjects, or of JSON text."""

import json
from typing import TYPE_CHECKING, Any

from . import storyboard_text
from .timed_text import parse_events
from .types_of_links import STORYBOARD, SUBJECTS

if TYPE_CHECKING:
    from alchemint.storyboard import Storyboard, Subject

FIRST = {"prompt": "A fox trots across a sunny meadow.", "duration": 4.0, "subjects": [], "events": []}
"""The storyboard of a new timeline."""


class _OfText:
    """What the nodes share whose storyboard is JSON text; `TEXT` names that input."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = (STORYBOARD, "STRING"), ("storyboard", "json")
    TEXT: str

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> str:  # noqa: N802 - ComfyUI's name
        """Return what changes when a picture that the text names does."""
        try:
            document = storyboard_text.read(inputs.get(cls.TEXT) or "")
            return storyboard_text.fingerprint(document, storyboard_text.input_folder())
        except (ValueError, OSError):  # told of when the node runs
            return ""

    @staticmethod
    def _check(text: str | None) -> bool | str:
        """Tell of the faults that can be told before anything runs: pictures may yet come from wired subjects."""
        try:
            faults = [] if text is None else storyboard_text.file_faults(
                storyboard_text.read(text), storyboard_text.input_folder())
        except ValueError as error:
            return str(error)
        return storyboard_text.shown(faults) if faults else True

    def run(self, subjects: "tuple[Subject, ...]" = (), prompt: str | None = None, **inputs: Any
            ) -> "tuple[Storyboard, str]":
        """Return the storyboard and its text; ValueError with all its faults."""
        board = storyboard_text.board_of(storyboard_text.read(inputs[self.TEXT]), subjects, prompt)
        return board, storyboard_text.text_of(board)


class TimelineStoryboard(_OfText):
    """A storyboard that is drawn: its text is written by the timeline, the script of web/."""

    DESCRIPTION = "Drop pictures and drag bars to say when each subject is on screen."
    TEXT = "storyboard"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        return {
            "required": {
                "storyboard": ("STRING", {"default": json.dumps(FIRST), "multiline": True, "dynamicPrompts": False}),
            },
            "optional": {
                "subjects": (SUBJECTS, {"tooltip": (
                    "Subjects of other nodes: one named like a bar gives it its pictures, the others are added.")}),
                "prompt": ("STRING", {"forceInput": True, "tooltip": "Instead of the timeline's own prompt."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, storyboard: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """Tell whether the text can be read and names only files of the input folder."""
        return cls._check(storyboard)


class StoryboardFromJSON(_OfText):
    """A storyboard of text, typed or wired."""

    DESCRIPTION = "A storyboard as alchemint generate takes it, as JSON; pictures are files of ComfyUI's input folder."
    TEXT = "json"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        return {
            "required": {
                "json": ("STRING", {"default": json.dumps(FIRST, indent=2), "multiline": True,
                                    "dynamicPrompts": False}),
            },
            "optional": {
                "subjects": (SUBJECTS, {"tooltip": (
                    "Subjects of other nodes: one named like one of the text gives it its pictures, the others are "
                    "added.")}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, json: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """Tell whether the text can be read and names only files of the input folder."""
        return cls._check(json)


class StoryboardOfSubjects:
    """A storyboard of wired subjects."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = (STORYBOARD, "STRING"), ("storyboard", "json")
    DESCRIPTION = "A prompt, and wired subjects with their times."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        own = "0 is the model's own."
        return {
            "required": {
                "prompt": ("STRING", {"multiline": True, "default": FIRST["prompt"],
                                      "tooltip": "What the whole video shows; name every subject by its word."}),
                "duration": ("FLOAT", {"default": 4.0, "min": 0.0, "max": 3600.0, "step": 0.25, "round": 1e-6,
                                       "tooltip": f"Seconds from the first frame to the last. {own}"}),
            },
            "optional": {
                "subjects": (SUBJECTS,),
                "negative_prompt": ("STRING", {"multiline": True, "default": "",
                                               "tooltip": "What it must not look like."}),
                "events": ("STRING", {"multiline": True, "default": "", "dynamicPrompts": False,
                                      "tooltip": "Timed captions, one a line: 0.5-2: the fox sits down"}),
                "width": ("INT", {"default": 0, "min": 0, "max": 16_384, "step": 8, "tooltip": own}),
                "height": ("INT", {"default": 0, "min": 0, "max": 16_384, "step": 8, "tooltip": own}),
                "fps": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 240.0, "round": 1e-6, "tooltip": own}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, events: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """Tell whether the events can be read, before anything runs."""
        try:
            parse_events(events or "")
        except ValueError as error:
            return str(error)
        return True

    def run(self, prompt: str, duration: float, subjects: "tuple[Subject, ...]" = (), negative_prompt: str = "",
            events: str = "", width: int = 0, height: int = 0, fps: float = 0.0) -> "tuple[Storyboard, str]":
        """Return the storyboard and its text; ValueError with all its faults."""
        numbers = {"duration": float(duration), "width": width, "height": height, "fps": float(fps)}
        captions = [{"during": during, "text": text} for during, text in parse_events(events)]
        document = {"prompt": prompt, "negative_prompt": negative_prompt, "events": captions}
        board = storyboard_text.board_of(document | {name: value for name, value in numbers.items() if value}, subjects)
        return board, storyboard_text.text_of(board)
