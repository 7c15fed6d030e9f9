"""The recipe of an annotation: models, thresholds, and how the work is cut into shards. `key` names its results."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alchemint.recipe_file import fault_lines, read_values, with_overrides

_RESULTS_DEPEND_ON = ("shots", "captions", "words", "perception", "filters")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shots(_Options):
    """How a video file is cut into clips (PySceneDetect)."""

    detector: Literal["content", "adaptive", "none"] = "adaptive"
    threshold: float | None = Field(None, gt=0, description="the detector's; its own default where none is given")
    shortest_s: float = Field(1.0, gt=0, description="shots shorter than this are left out")
    longest_s: float = Field(20.0, gt=0, description="longer shots are cut into equal parts no longer than this")


class Llm(_Options):
    """A language model behind an OpenAI-compatible server."""

    url: str | None = None
    model: str | None = None
    attempts: int = Field(3, ge=1, description="times an answer is asked for; each time its faults are named")
    timeout_s: float = Field(60.0, gt=0)
    retries: int = Field(3, ge=0, description="times a lost connection or an overloaded server is tried again")


def _needs_a_model(by: str, model: Llm, what: str) -> None:
    if by == "model" and not model.model:
        raise ValueError(f"{what} are to come from a model, but none is named; give {what}.model.model and, for a "
                         f"server of your own, {what}.model.url")


class Captions(_Options):
    """Who writes a caption where none is given: a vision-language model, or nobody."""

    by: Literal["nobody", "model"] = "nobody"
    model: Llm = Llm()
    num_frames: int = Field(8, ge=1, description="frames that the model is shown")
    longest_side: int = Field(512, ge=64, description="pixels of the longer side of the frames that it is shown")

    @model_validator(mode="after")
    def _check(self) -> "Captions":
        _needs_a_model(self.by, self.model, "captions")
        return self


class Words(_Options):
    """Who names the entities of a caption: rules, or a language model."""

    by: Literal["rules", "model"] = "rules"
    model: Llm = Llm()
    most: int = Field(4, ge=1, description="entities of a clip, at most")

    @model_validator(mode="after")
    def _check(self) -> "Words":
        _needs_a_model(self.by, self.model, "words")
        return self


class Perception(_Options):
    """Models by hub id or folder, and how they are used. `toy`: the package's own, for toyworld clips."""

    kind: Literal["grounded-sam2", "sam3", "toy"] = "grounded-sam2"
    detector: str = "IDEA-Research/grounding-dino-base"
    comparer: str = "openai/clip-vit-large-patch14"
    tracker: str = "facebook/sam2.1-hiera-large"
    sam3: str = "facebook/sam3"
    num_search_frames: int = Field(8, ge=1, description="frames, spread over the clip, on which words are looked for")
    box_threshold: float = Field(0.25, ge=0, le=1)
    min_likeness: float = Field(0.0, ge=-1, le=1, description="of the best box and its word, by the comparer")


class Filters(_Options):
    """What an entity must be to be kept. None switches a filter off."""

    min_area: float | None = Field(0.002, ge=0, lt=1, description="share of the frame; frames with less don't show it")
    min_seen_s: float | None = Field(0.5, ge=0, description="seconds in which it is seen, together")
    max_truncation: float | None = Field(0.5, gt=0, le=1, description="share of the frames it is seen in, in which the "
                                                                      "frame's border cuts it")
    min_sharpness: float | None = Field(None, ge=0, description="its sharpest frame's variance of the Laplacian")
    min_confidence: float | None = Field(None, description="mean of the tracker's scores where it is seen")
    max_overlap: float | None = Field(0.7, gt=0, le=1, description="IoU of two entities' masks; the less sure goes")
    min_identity: float | None = Field(0.6, ge=-1, le=1, description="likeness of its first and last crop (drift)")


class Shards(_Options):
    """How results are cut into files: `num_files` video files make one shard."""

    num_files: int = Field(16, ge=1)
    limit_s: float | None = Field(1800.0, gt=0, description="seconds that a stage may take over a clip")


class Recipe(_Options):
    """All that decides what an annotation makes of a clip, and how it is run."""

    shots: Shots = Shots()
    captions: Captions = Captions()
    words: Words = Words()
    perception: Perception = Perception()
    filters: Filters = Filters()
    shards: Shards = Shards()

    @property
    def settings(self) -> dict[str, Any]:
        """The values on which results depend."""
        values = self.model_dump(mode="json", include=set(_RESULTS_DEPEND_ON))
        for section in ("captions", "words"):
            values[section]["model"] = values[section]["model"]["model"]
        return values

    @property
    def key(self) -> str:
        """A hash of the settings, by which results are named."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (YAML; None: the defaults) and change values by `section.name=value`.

    Raises ValueError that names each key that is unknown and each value that is not allowed.
    """
    values = read_values(path, overrides) if path else with_overrides({}, overrides)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(fault_lines(path or "annotation", error)) from error
