"""Entity words: which words of a caption name what is to be looked for, and the rules that they keep.

A word is a piece of the caption, as it is written there. Whoever names words, each rule is checked here.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

from alchemint.annotate.lexicon import is_participle, is_plural, lexicon, nouns, singulars
from alchemint.annotate.noun_phrases import Phrase, noun_phrases, tokens_of

Rule = Callable[[str, str, Sequence[str]], str | None]
"""(word, caption, the other words) -> what is wrong, None when nothing is."""


class Namer(Protocol):
    """Names the entities of a caption."""

    def name(self, caption: str) -> tuple[str, ...]:
        """Return the entity words in the order of the caption; none when it names nothing that can be followed."""


def broken_rules(word: str, caption: str, others: Sequence[str] = ()) -> dict[str, str]:
    """Return the rules that a word breaks, by name, each with what is wrong. `others` are chosen beside it.

    A word that does not stand in the caption breaks only that rule: what else it would be is not to be told.
    """
    broken: dict[str, str] = {}
    for name, rule in RULES.items():
        wrong = rule(word, caption, others)
        if wrong is not None:
            broken[name] = wrong
            if name == "not in the caption":
                break
    return broken


def faults_of(words: Sequence[str], caption: str, most: int) -> list[str]:
    """Return what is wrong with a choice of words, a line each; nothing when it is sound."""
    faults = [f"there are {len(words)} entities; choose the {most} that matter most"] if len(words) > most else []
    for number, word in enumerate(words):
        faults += broken_rules(word, caption, [*words[:number], *words[number + 1:]]).values()
    return list(dict.fromkeys(faults))


def head_of(word: str) -> str:
    """Return the noun of a word that tells what it is, in lower case: "glass" of "tall glass of milk".

    A compound that means something else than its last noun ("hot dog") is returned whole.
    """
    tokens = _lower(word.replace('"', " "))
    cut = next((at for at, token in enumerate(tokens) if at and token in lexicon().preposition), len(tokens))
    tokens = tokens[:cut]
    for length in range(len(tokens), 1, -1):
        compound = " ".join(tokens[-length:])
        if compound in lexicon().compound:
            return compound
    return tokens[-1] if tokens else ""


def stands_in(word: str, caption: str) -> bool:
    """Tell whether a word is a piece of the caption that begins and ends with whole words."""
    return bool(word.strip()) and re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", caption) is not None


def _not_in_caption(word: str, caption: str, others: Sequence[str]) -> str | None:
    if word == word.strip() and stands_in(word, caption):
        return None
    return f'"{word}" does not stand in the caption; copy a piece of it exactly, whole words, letters\' case as there'


def _determiner(word: str, caption: str, others: Sequence[str]) -> str | None:
    first, _, rest = word.lower().partition(" ")
    known = lexicon()
    if rest and first in known.indefinite | known.definite | {"no"}:
        return f'"{word}" begins with "{first}"; leave that away'
    return None


def _pronoun(word: str, caption: str, others: Sequence[str]) -> str | None:
    if word.lower() in lexicon().pronoun | lexicon().determiner:
        return f'"{word}" is a pronoun; choose the noun that it stands for'
    return None


def _body_part(word: str, caption: str, others: Sequence[str]) -> str | None:
    if _is_one_of(head_of(word), lexicon().body_part):
        return f'"{word}" is a part of a body or of a thing; choose the whole or leave it out'
    return None


def _group(word: str, caption: str, others: Sequence[str]) -> str | None:
    known, head, tokens = lexicon(), head_of(word), _lower(word)
    several = (is_plural(head) or head in known.group or (head == "pair" and tokens[-1] not in known.pair)
               or (tokens and tokens[0] in known.plural_determiner)
               or (tokens and tokens[0].isdigit() and tokens[0] != "1")
               or any(token == "and" and before in nouns() for before, token in pairwise(tokens)))
    if not several and head in known.same_in_plural:
        mentions = [phrase for phrase in noun_phrases(caption) if phrase.head == head]
        several = bool(mentions) and not any(phrase.determiner in known.indefinite | known.definite
                                             for phrase in mentions)
    return f'"{word}" names several at once; choose one thing or leave it out' if several else None


def _background(word: str, caption: str, others: Sequence[str]) -> str | None:
    if _is_one_of(head_of(word), lexicon().background):
        return f'"{word}" is a place, stuff, light or weather; choose a thing with an outline or leave it out'
    return None


def _no_thing(word: str, caption: str, others: Sequence[str]) -> str | None:
    known, head = lexicon(), head_of(word)
    if head in known.compound or head in nouns():
        return None
    grammar = (head in known.adjective or head in known.verb or head in known.adverb or head in known.preposition
               or head in known.conjunction or (is_participle(head) and " " not in word))
    # "The camera" is the one that films.
    camera = head == "camera" and not any(phrase.head == head and phrase.determiner not in {"the", ""}
                                          for phrase in noun_phrases(caption))
    if grammar or camera or _is_one_of(head, known.no_thing) or not re.search(r"[^\W\d]", head):
        return f'"{word}" is no thing that can be seen and outlined; choose a noun that is one, or leave it out'
    return None


def _ambiguous(word: str, caption: str, others: Sequence[str]) -> str | None:
    tokens = _lower(word)
    kinds: list[frozenset[str]] = []
    for phrase in noun_phrases(caption):
        if not any(_ends_with(mention, tokens) for mention in _mentions(phrase, caption, len(tokens))):
            continue
        rest = frozenset(phrase.modifiers + phrase.nouns) - frozenset(tokens)
        if not (phrase.determiner in lexicon().definite and any(rest <= earlier for earlier in kinds)):
            kinds.append(rest)
    if len(kinds) > 1:
        return f'"{word}" may be any of {len(kinds)} in the caption; choose a longer piece that tells which'
    return None


def _mentions(phrase: Phrase, caption: str, at_least: int) -> list[list[str]]:
    """Return what a phrase is by itself, with what it holds and, for words that are longer, with what it has on."""
    mentions = [[*phrase.modifiers, *phrase.nouns], _lower(caption[phrase.modified_start:phrase.end])]
    if phrase.linked_end is not None and at_least > len(_lower(caption[phrase.end:phrase.linked_end])):
        mentions.append(_lower(caption[phrase.modified_start:phrase.linked_end]))
    return mentions


def _inside_another(word: str, caption: str, others: Sequence[str]) -> str | None:
    for other in others:
        if other.lower() == word.lower():
            return f'"{word}" is chosen twice; choose it once'
        if stands_in(word.lower(), other.lower()):
            return f'"{word}" stands inside "{other}", which is chosen, too; leave one out'
    return None


RULES: dict[str, Rule] = {
    "not in the caption": _not_in_caption,
    "determiner": _determiner,
    "pronoun": _pronoun,
    "body part": _body_part,
    "group": _group,
    "background": _background,
    "no thing": _no_thing,
    "ambiguous": _ambiguous,
    "inside another": _inside_another,
}


def _is_one_of(noun: str, words: frozenset[str]) -> bool:
    return noun not in lexicon().compound and any(form in words for form in singulars(noun))


def _lower(text: str) -> list[str]:
    return [token.lower for token in tokens_of(text)]


def _ends_with(words: Sequence[str], end: Sequence[str]) -> bool:
    return bool(end) and list(words[-len(end):]) == list(end)
