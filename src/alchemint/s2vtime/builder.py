"""Suites for real models, built as the paper does it: a language model chooses, a text-to-image model paints.

Of each prompt a language model picks a few entities and gives each a sensible interval (AlcheMinT, arXiv 2512.10943,
S2VTime); a text-to-image pipeline paints each entity's reference. Each choice and each picture is a file, so that a
build that was killed goes on where it was:

    <suite>/choices/<id>.json      what was chosen, or why nothing was
    <suite>/images/<id>-<name>.png
    <suite>/suite.json, storyboards.jsonl    when all is there
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from alchemint import language_model, media
from alchemint.s2vtime.suite import About, Suite, write_suite

SHORTEST_S = 0.5
"""The shortest interval that is asked for."""

_INSTRUCTION = """\
You direct a video of {duration:g} seconds. From its description pick at most {most} entities that can be \
seen as separate things: people, animals, vehicles, objects. No body parts, no groups, no backgrounds, no weather. \
For each give `word`, copied from the description exactly and as short as it can be while naming it (one to three \
words), and the \
`start` and `end` in seconds between which it is on screen, so that the intervals make sense of what the description \
tells. Vary the intervals: not all entities are there from the beginning to the end. An interval lasts at least \
{shortest:g} seconds."""


class Entity(BaseModel):
    """An entity of a prompt and when it is on screen, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: str = Field(min_length=1)
    start: float
    end: float


class Chosen(BaseModel):
    """What was chosen of a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt with its id; `chosen` where entities and intervals are chosen already."""

    id: str
    text: str
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a prompt: what was chosen, or why nothing was ("refused: …", "invalid after …")."""

    prompt: Prompt
    chosen: Chosen | None
    reason: str = ""


class Painter(Protocol):
    """Paints a reference of an entity."""

    def paint(self, word: str, seed: int) -> Image.Image:
        """Return a picture that shows one `word` alone; the same arguments give the same picture."""


def shipped_prompts() -> list[Prompt]:
    """Return the package's own 100 prompts, with entities and intervals chosen for 5 seconds."""
    text = resources.files(__package__).joinpath("prompts.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return [Prompt(row["id"], row["prompt"], Chosen(entities=row["entities"])) for row in rows]


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a text file, one a line. Raises ValueError when it holds none."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no prompt; write one a line")
    return [Prompt(f"{number:04d}", line) for number, line in enumerate(lines)]


def faults_of(chosen: Chosen, prompt: str, duration: float, most: int) -> list[str]:
    """Return what is wrong with a choice, a line each; nothing when it is sound."""
    faults = []
    if not 1 <= len(chosen.entities) <= most:
        faults.append(f"there are {len(chosen.entities)} entities; choose 1 to {most}")
    words = [entity.word.lower() for entity in chosen.entities]
    faults += [f'the word "{word}" is chosen twice' for word in dict.fromkeys(words) if words.count(word) > 1]
    for entity in chosen.entities:
        if not re.search(rf"\b{re.escape(entity.word.lower())}\b", prompt.lower()):
            faults.append(f'the word "{entity.word}" does not stand in the description')
        if not 0 <= entity.start < entity.end <= duration or entity.end - entity.start < SHORTEST_S:
            faults.append(f'"{entity.word}" from {entity.start:g} to {entity.end:g} s: must lie within 0 to '
                          f"{duration:g} s and last at least {SHORTEST_S:g} s")
    return faults


@dataclass(frozen=True)
class LlmChooser:
    """Asks a language model, by `language_model.ask`; its client comes from `language_model.connect`."""

    client: Any
    model: str
    duration: float
    most: int = 2

    def choose(self, prompt: Prompt) -> Outcome:
        """Return what the language model chose.

        Raises language_model.LateAnswerError or ServerError when it was not there to choose.
        """
        messages = [
            {"role": "system", "content": _INSTRUCTION.format(duration=self.duration, most=self.most,
                                                              shortest=SHORTEST_S)},
            {"role": "user", "content": prompt.text}]
        try:
            return Outcome(prompt, language_model.ask(
                self.client, self.model, messages, Chosen,
                lambda chosen: faults_of(chosen, prompt.text, self.duration, self.most)))
        except language_model.UnusableAnswerError as reason:
            return Outcome(prompt, None, str(reason))


@dataclass(frozen=True)
class DiffusersPainter:
    """Paints with any text-to-image pipeline of diffusers."""

    pipeline: Any
    num_inference_steps: int | None = None
    template: str = "a photo of a single {word}, whole, centred, on a plain light grey background"

    def paint(self, word: str, seed: int) -> Image.Image:
        """Return the pipeline's picture of `word`."""
        import torch

        steps = {} if self.num_inference_steps is None else {"num_inference_steps": self.num_inference_steps}
        picture: Image.Image = self.pipeline(self.template.format(word=word),
                                             generator=torch.Generator("cpu").manual_seed(seed), **steps).images[0]
        return picture


@dataclass(frozen=True)
class Pictures:
    """References that are there already: <id>-<name>.png or <word>.png (or .jpg, .webp) in a folder."""

    folder: Path

    def find(self, prompt: Prompt, word: str) -> Path:
        """Return the picture of an entity. Raises FileNotFoundError that names the files it looked for."""
        stems = (f"{prompt.id}-{_name(word)}", word, _name(word))
        for stem in stems:
            for suffix in (".png", ".jpg", ".jpeg", ".webp"):
                if (self.folder / f"{stem}{suffix}").is_file():
                    return self.folder / f"{stem}{suffix}"
        raise FileNotFoundError(f'no picture of "{word}" in {self.folder}; put one there as {stems[0]}.png or '
                                f"{word}.png")


def choose_all(folder: Path, prompts: Iterable[Prompt], choose: Callable[[Prompt], Outcome]) -> Iterator[Outcome]:
    """Yield what was chosen of each prompt; what is written in `folder` already is not asked for again."""
    for prompt in prompts:
        path = folder / "choices" / f"{prompt.id}.json"
        if path.is_file():
            row = json.loads(path.read_text(encoding="utf-8"))
            if row["prompt"] != prompt.text:
                raise ValueError(f'{path} is of another prompt ("{row["prompt"]:.60}"); choose another folder')
            chosen = None if row["entities"] is None else Chosen(entities=row["entities"])
            yield Outcome(prompt, chosen, row["reason"])
            continue
        outcome = Outcome(prompt, prompt.chosen) if prompt.chosen is not None else choose(prompt)
        entities = None if outcome.chosen is None else [entity.model_dump() for entity in outcome.chosen.entities]
        media.write_text(path, json.dumps({"prompt": prompt.text, "entities": entities, "reason": outcome.reason},
                                          ensure_ascii=False) + "\n")
        yield outcome


def build_suite(folder: Path, about: About, outcomes: Sequence[Outcome], references: Painter | Pictures,
                duration: float) -> Suite:
    """Paint or fetch the references that are missing, and write the suite of all prompts of which something was chosen.

    Raises ValueError when nothing was chosen of any.
    """
    rows = []
    for seed, outcome in enumerate(outcomes):
        if outcome.chosen is None:
            continue
        subjects = []
        for number, entity in enumerate(outcome.chosen.entities):
            name = _name(entity.word)
            target = Path("images") / f"{outcome.prompt.id}-{name}.png"
            if not (folder / target).is_file():
                picture = (media.open_image(references.find(outcome.prompt, entity.word))
                           if isinstance(references, Pictures) else references.paint(entity.word, 1000 * seed + number))
                media.write_image(folder / target, picture)
            subjects.append({"name": name, "word": _as_written(entity.word, outcome.prompt.text),
                             "images": [target.as_posix()], "appears": [[entity.start, entity.end]]})
        rows.append({"id": outcome.prompt.id, "storyboard": {
            "prompt": outcome.prompt.text, "duration": duration, "seed": seed, "subjects": subjects}})
    if not rows:
        raise ValueError(f"nothing was chosen of any of the {len(outcomes)} prompts; see {folder / 'choices'}")
    return write_suite(folder, about, rows)


def _name(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") or "subject"


def _as_written(word: str, prompt: str) -> str:
    """Return `word` with the letters' case that it has in the prompt."""
    found = re.search(re.escape(word), prompt, re.IGNORECASE)
    return found.group() if found else word
