"""Captions by a vision-language model: what happens in a clip, and when, told from a few of its frames."""

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from alchemint import language_model
from alchemint.annotate.recipe import Captions
from alchemint.perception.sightings import Frames, frames_to_search
from alchemint.records import TimedCaption

if TYPE_CHECKING:
    import openai

_JPEG_QUALITY = 90
_INSTRUCTION = """\
You are shown frames of a video of {duration:.2f} seconds, each after the time at which it is seen. Describe the video.
`caption`: one to three sentences in English that name every person, animal and thing that matters, what each of \
them does, and the place. Where two look alike, tell them apart by how they look ("a red cup and a blue cup"). Speak \
of what is seen, not of frames or of a video.
`events`: what happens one after the other, each with its `start` and `end` in seconds and a `text` of one short \
sentence; in order, within 0 and {duration:.2f}, none overlapping another. Name everybody by the words of the caption. \
Where nothing changes, leave the list empty."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float
    end: float
    text: str


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: str
    events: tuple[_Event, ...]


@dataclass(frozen=True)
class Caption:
    """A caption of a clip and timed captions of its parts, in order, none overlapping another."""

    caption: str
    events: tuple[TimedCaption, ...] = ()


@dataclass(frozen=True)
class Captioner:
    """Shows frames of a clip to a vision-language model behind an OpenAI-compatible server.

    client: see language_model.connect.
    """

    client: "openai.OpenAI"
    options: Captions

    def caption(self, video: Frames, fps: float) -> Caption:
        """Return what the model tells of a clip.

        Args:
            video: (frames, height, width, 3) uint8, of which a few frames are read, in order.
            fps: frames a second.

        Raises:
            language_model.AnswerError: with the reason when no caption came.
        """
        if self.options.model.model is None:
            raise ValueError("captions.model.model is not given; name the vision-language model as its server does")
        # Rounded down, so that what the model takes for the end lies within the clip.
        duration = math.floor(100 * len(video) / fps) / 100
        parts: list[dict[str, Any]] = []
        for number in frames_to_search(len(video), self.options.num_frames):
            parts.append({"type": "text", "text": f"{number / fps:.2f} s"})
            parts.append({"type": "image_url",
                          "image_url": {"url": jpeg_url(Image.fromarray(video[number]), self.options.longest_side)}})
        told = language_model.ask(
            self.client, self.options.model.model,
            [{"role": "system", "content": _INSTRUCTION.format(duration=duration)}, {"role": "user", "content": parts}],
            _Told, lambda told: _faults_of(told, duration), self.options.model.attempts)
        return Caption(told.caption.strip(), tuple(
            TimedCaption(during=(event.start, event.end), text=event.text.strip()) for event in told.events))


def jpeg_url(image: Image.Image, longest_side: int) -> str:
    """Return an RGB image as a data URL (JPEG), made smaller where a side has more than `longest_side` pixels."""
    small = image.copy()
    small.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _faults_of(told: _Told, duration: float) -> list[str]:
    faults = [] if told.caption.strip() else ["the caption is empty; describe what is seen"]
    for number, event in enumerate(told.events, start=1):
        span = f"event {number}, {event.start:g} to {event.end:g} s"
        if not 0 <= event.start < event.end <= duration:
            faults.append(f"{span}: must begin before it ends, and lie within 0 to {duration:.2f} s")
        if not event.text.strip():
            faults.append(f"{span}: its text is empty")
    for number, (one, other) in enumerate(zip(told.events, told.events[1:], strict=False), start=1):
        if other.start < one.end:
            faults.append(f"event {number + 1} begins at {other.start:g} s, before event {number} ends at "
                          f"{one.end:g} s; put them in order, without overlap")
    return faults
