"""Who names entity words: rules, which need nothing, or a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from alchemint import language_model
from alchemint.annotate.lexicon import lexicon
from alchemint.annotate.noun_phrases import Phrase, noun_phrases
from alchemint.annotate.recipe import Llm
from alchemint.annotate.words import broken_rules, faults_of, head_of

if TYPE_CHECKING:
    import openai

_WEARING = ("in", "with", "wearing")
_INSTRUCTION = """\
You are given the caption of a video. Name the entities that are to be found in the video and followed through it: \
people, animals, vehicles and objects that have an outline of their own. Choose at most {most}, those that matter \
most, in the order of the caption. For each give a piece of the caption, copied exactly and as short as it can be \
while it names that one thing: a noun with what belongs to it, without "a" or "the".
- No parts of a body or of a thing: hand, face, tail, wheel of a car.
- No groups and no plurals: crowd, people, children, two dogs.
- No places, surfaces, stuff, light or weather: sky, street, grass, water, room, rain.
- No pronouns; nothing that can't be seen, such as a view, a moment, a smile.
- Each piece must be told apart from all else in the caption: where there are a red cup and a blue cup, "red cup" and \
"blue cup", never "cup". No piece may stand inside another one.
Where the caption names no such entity, answer with an empty list."""


class Entities(BaseModel):
    """What a language model answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entities: tuple[str, ...]


@dataclass(frozen=True)
class LlmNamer:
    """Asks a language model and checks each rule; what breaks one is told and asked again.

    client: see language_model.connect.
    """

    client: "openai.OpenAI"
    options: Llm
    most: int = 4

    def name(self, caption: str) -> tuple[str, ...]:
        """Return the entity words of a caption. Raises language_model.AnswerError with the reason when none came."""
        if self.options.model is None:
            raise ValueError("words.model.model is not given; name the language model as its server does")
        return language_model.ask(
            self.client, self.options.model, question(caption, self.most), Entities,
            lambda chosen: faults_of(chosen.entities, caption, self.most), self.options.attempts).entities


def question(caption: str, most: int) -> list[language_model.Message]:
    """Return what a language model is asked: to answer with the `Entities` of a caption, `most` at most."""
    return [{"role": "system", "content": _INSTRUCTION.format(most=most)}, {"role": "user", "content": caption}]


@dataclass(frozen=True)
class RuleNamer:
    """Reads noun phrases by rules and keeps those that break none: offline, quick, English only.

    Where there are more than `most`, people, animals and vehicles go before things.
    """

    most: int = 4

    def name(self, caption: str) -> tuple[str, ...]:
        """Return the entity words of a caption in its order."""
        kinds: list[Phrase] = []
        worn = False
        for phrase in noun_phrases(caption):
            worn = phrase.head in lexicon().clothing and (
                phrase.before in _WEARING or (worn and phrase.before == "and"))
            if not worn and not _again(phrase, kinds):
                kinds.append(phrase)
        words: list[str] = []
        for kind in kinds:
            word = _told_apart(kind, [other for other in kinds if other is not kind], caption)
            if word is not None and not broken_rules(word, caption, words) and not any(
                    "inside another" in broken_rules(chosen, caption, [word]) for chosen in words):
                words.append(word)
        first = sorted(words, key=lambda word: not _acts(word))[:self.most]
        return tuple(word for word in words if word in first)


def _acts(word: str) -> bool:
    known = lexicon()
    return head_of(word) in known.people | known.animal | known.vehicle


def _again(phrase: Phrase, kinds: Sequence[Phrase]) -> bool:
    """Tell whether a phrase speaks of what was named before: "a red fox ... the fox"."""
    said = set(phrase.modifiers + phrase.nouns)
    return phrase.determiner in lexicon().definite and any(
        kind.head == phrase.head and said <= set(kind.modifiers + kind.nouns) for kind in kinds)


def _told_apart(phrase: Phrase, others: Sequence[Phrase], caption: str) -> str | None:
    """Return the shortest piece of the caption that names a phrase and no other one; None where there is none."""
    pieces = [caption[phrase.noun_start:phrase.end], caption[phrase.modified_start:phrase.end]]
    if phrase.linked_end is not None:
        pieces += [caption[start:phrase.linked_end] for start in (phrase.noun_start, phrase.modified_start)]
    theirs = [caption[other.modified_start:other.linked_end or other.end].lower().split() for other in others
              if other.head == phrase.head]
    for piece in pieces:
        words = piece.lower().split()
        if not any(_holds(their, words) for their in theirs):
            return piece
    return None


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[at:at + len(part)]) == list(part) for at in range(len(words) - len(part) + 1))
