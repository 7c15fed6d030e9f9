"""Noun phrases of a caption by rules: no tagger, a lexicon and the endings of words. English only.

A phrase is determiner, modifiers, nouns: "a | small red | racing car". Where it ends is told by what can't go on: a
preposition, a verb ("a fox trots": -s after a singular), a participle after a noun ("a man walking"), a comma.
"""

import re
from dataclasses import dataclass, replace

from alchemint.annotate.lexicon import (
    is_known_noun,
    is_participle,
    is_plural,
    is_verb_in_s,
    lexicon,
    nouns,
    singulars,
)

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_QUOTE = re.compile(r'"[^"]*"|“[^”]*”')
_LONGEST_QUOTE = 0.6
"""Share of the caption; what is quoted beyond it is the caption itself."""

_LONGEST_COMPOUND = 4
_LINKS = ("in", "with", "wearing")


@dataclass(frozen=True)
class Token:
    """A word of the caption: as written, in lower case, its place, and whether a comma or the like goes before it."""

    text: str
    lower: str
    start: int
    end: int
    parted: bool

    @property
    def possessive(self) -> bool:
        """Whether it is somebody's: "woman's", "photographers'"."""
        return self.lower.endswith(("'s", "’s"))


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: its determiner ("" without one), what lies before its nouns, and its nouns; `modified_start` to
    `end` is it without the determiner, `noun_start` to `end` its nouns, with "of ..." where they hold something.

    before: the word before it. linked_end: the end of "in ..." or "with ..." after it, None without.
    """

    determiner: str
    modifiers: tuple[str, ...]
    nouns: tuple[str, ...]
    modified_start: int
    noun_start: int
    end: int
    before: str
    linked_end: int | None = None

    @property
    def head(self) -> str:
        """The noun that tells what it is."""
        return self.nouns[-1]


def tokens_of(text: str) -> list[Token]:
    """Return the words of a text; those within quotes are left out."""
    quoted = [span.span() for span in _QUOTE.finditer(text) if len(span.group()) < _LONGEST_QUOTE * len(text)]
    tokens: list[Token] = []
    end = 0
    for found in _WORD.finditer(text):
        if any(start <= found.start() < stop for start, stop in quoted):
            continue
        between = text[end:found.start()]
        tokens.append(Token(found.group(), found.group().lower().replace("’", "'"), found.start(), found.end(),
                            bool(tokens) and bool(between.strip())))
        end = found.end()
    return tokens


def noun_phrases(caption: str) -> list[Phrase]:
    """Return the phrases of a caption in order; those without a determiner only where their noun is known.

    What is not there ("without a helmet", "no cars") and what a picture shows ("a statue of a lion") is left out.
    """
    return _Reader(tokens_of(caption)).all()


class _Reader:
    """Reads phrases from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._read_to = 0

    def all(self) -> list[Phrase]:
        found: list[Phrase] = []
        at = shown_from = 0
        while at < len(self._tokens):
            phrase, after = self._phrase(at)
            if phrase is None:
                at = max(after, at + 1)
                continue
            phrase, after = self._holding(phrase, after)
            # A statue of a lion is no lion; one without a hat has none.
            missing = phrase.determiner == "no" or phrase.before == "without"
            if not missing and not (found and at == shown_from and phrase.before == "of"):
                found.append(replace(phrase, linked_end=self._linked_end(after)))
                shown_from = after + 1 if phrase.head in lexicon().depiction else 0
            at = self._read_to = after
        return found

    def _phrase(self, at: int) -> tuple[Phrase | None, int]:
        """Read a phrase that begins at a token; return it (None where there is none) and the token after it."""
        determiner, start = self._determiner(at)
        if not determiner and not self._may_be_bare(at):
            return None, at + 1
        return self._named(determiner, start, self._tokens[at - 1].lower if at else "")

    def _named(self, determiner: str, start: int, before: str) -> tuple[Phrase | None, int]:
        """Read a phrase from the token after its determiner on."""
        modifiers, first_noun, after, owner = self._body(determiner, start)
        if owner:
            # "The woman's long hair": what is named is the hair.
            return self._named("the", after, "'s")
        names = tuple(token.lower for token in self._tokens[first_noun:after])
        if not names or not (determiner or " ".join(names) in lexicon().compound
                             or any(map(is_known_noun, singulars(names[-1])))):
            return None, after
        return Phrase(determiner, modifiers, names, self._tokens[start].start, self._tokens[first_noun].start,
                      self._tokens[after - 1].end, before), after

    def _determiner(self, at: int) -> tuple[str, int]:
        """Return the determiner at a token ("" where there is none) and the token after it."""
        determiner = ""
        while at < len(self._tokens) and not (determiner and self._tokens[at].parted):
            word = self._tokens[at].lower
            if word in lexicon().determiner or (word.isdigit() and word != "1"):
                # Several in a row ("all the", "the two"): one that tells of several counts.
                several = determiner in lexicon().plural_determiner or determiner.isdigit()
                determiner = determiner if several else word
                at += 1
            else:
                break
        return determiner, at

    def _may_be_bare(self, at: int) -> bool:
        """Tell whether a phrase without a determiner may begin here: not after "to", "they" and nouns, where verbs are.
        """
        word = self._tokens[at].lower
        if self._closes(at) and word not in lexicon().adjective:
            return False
        follows = self._tokens[at + 1].lower if at + 1 < len(self._tokens) else ""
        if word.endswith("ing") and (follows in lexicon().determiner or
                                     (is_participle(word) and word not in lexicon().adjective)):
            # "..., painting the clouds", "is playing guitar".
            return False
        if at == 0 or self._tokens[at].parted:
            return True
        before = self._tokens[at - 1].lower
        if at == self._read_to or before in {"to", "can", "will", "not"} or (
                before in lexicon().pronoun and before not in lexicon().determiner):
            return False
        return (before in lexicon().preposition or before in lexicon().conjunction or before in lexicon().verb
                or is_participle(before) or (is_verb_in_s(before) and not is_known_noun(before)))

    def _body(self, determiner: str, start: int) -> tuple[tuple[str, ...], int, int, bool]:
        """Return modifiers, the first noun's place, the place after the last, and whether that one is an owner."""
        known, tokens = lexicon(), self._tokens
        modifiers: list[str] = []
        first_noun = at = start
        coordinated = start >= 2 and tokens[start - 2 if determiner else start - 1].lower == "and"
        while at < len(tokens):
            token = tokens[at]
            word, has_noun = token.lower, at > first_noun
            if token.parted and at > start and not self._adjective_list(at, has_noun):
                break
            if token.possessive:
                return tuple(modifiers), first_noun, at + 1, True
            length = 0 if has_noun else self._compound_length(at)
            if length:
                return tuple(modifiers), at, self._joined(at + length), False
            if not has_noun and self._modifies(at, determiner):
                modifiers.append(word)
                at += 1
                first_noun = at
                continue
            if word == "and" and modifiers and not has_noun and self._modifies(at + 1, determiner):
                at += 1
                first_noun = at
                continue
            if self._closes(at):
                break
            if has_noun and self._ends_before(at, determiner, coordinated):
                if word in known.adjective and self._noun_follows(at):
                    # "A chocolate brown labrador": what seemed the noun belongs to the colour.
                    modifiers += [other.lower for other in tokens[first_noun:at + 1]]
                    at += 1
                    first_noun = at
                    continue
                break
            at += 1
        return tuple(modifiers), first_noun, at, False

    def _joined(self, at: int) -> int:
        """Return the place after the nouns that go on with a compound ("ice cream | truck")."""
        while (at < len(self._tokens) and not self._tokens[at].parted and self._tokens[at].lower in nouns()
               and not self._tokens[at].possessive):
            at += 1
        return at

    def _adjective_list(self, at: int, has_noun: bool) -> bool:
        """Tell whether the comma before a token is one between adjectives: "a big, red ball"."""
        return (not has_noun and self._tokens[at].lower in lexicon().adjective
                and self._tokens[at - 1].lower in lexicon().adjective)

    def _compound_length(self, at: int) -> int:
        words = [token.lower for token in self._tokens[at:at + _LONGEST_COMPOUND]]
        return next((length for length in range(len(words), 1, -1) if " ".join(words[:length]) in lexicon().compound),
                    0)

    def _closes(self, at: int) -> bool:
        """Tell whether no noun phrase goes on with a token, whatever came before it."""
        known, word = lexicon(), self._tokens[at].lower
        return (word in known.preposition or word in known.conjunction or word in known.determiner
                or word in known.pronoun or (word in known.verb and word not in nouns() and not is_known_noun(word))
                or (_is_adverb(word) and word not in nouns()))

    def _modifies(self, at: int, determiner: str) -> bool:
        """Tell whether a token before the noun is an adjective, adverb or participle, with a noun still to come."""
        known = lexicon()
        if at >= len(self._tokens):
            return False
        word = self._tokens[at].lower
        looks = (word in known.adjective or _is_adverb(word) or word[0].isdigit()
                 or (is_participle(word) and word.endswith("ed")) or (_ends_as_adjective(word) and word not in nouns()))
        if not looks or at + 1 >= len(self._tokens):
            return looks and word not in nouns()
        after = self._tokens[at + 1]
        if word in nouns() and (after.parted or self._closes(at + 1) or (
                determiner in lexicon().indefinite and is_verb_in_s(after.lower))):
            return False
        return not (after.parted and after.lower not in known.adjective)

    def _ends_before(self, at: int, determiner: str, coordinated: bool) -> bool:
        """Tell whether a phrase that has a noun ends before a token that may be a noun or a verb."""
        known, word, last = lexicon(), self._tokens[at].lower, self._tokens[at - 1].lower
        if is_plural(last) and (word not in nouns() or word in known.verb):
            return True
        if word.endswith(("ing", "ed")) and is_participle(word):
            return True
        if word in known.adjective and word not in nouns():
            return True
        if is_verb_in_s(word):
            deed = any(form in known.verb and not is_known_noun(form) for form in singulars(word))
            if deed or determiner in known.indefinite or at + 1 >= len(self._tokens):
                return True
            after = self._tokens[at + 1].lower
            return not (after in known.verb or after.endswith("ed"))
        if coordinated and last in nouns() and (word in known.verb or not is_known_noun(word)):
            # "A cellist and a dancer rehearse", but not "and a bell pepper wobbles".
            return at + 1 >= len(self._tokens) or not is_verb_in_s(self._tokens[at + 1].lower)
        return word in known.verb and word not in nouns()

    def _noun_follows(self, at: int) -> bool:
        after = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        return after is not None and not after.parted and after.lower in nouns()

    def _holding(self, phrase: Phrase, after: int) -> tuple[Phrase, int]:
        """Return a phrase with what it holds ("a bowl | of cream") or, of pairs in one piece, what it is a pair of."""
        if after + 1 >= len(self._tokens) or self._tokens[after].lower != "of" or self._tokens[after].parted:
            return phrase, after
        held, end = self._phrase(after + 1)
        if held is None:
            start = after + 1
            if phrase.head not in lexicon().measure or self._closes(start) or self._tokens[start].parted:
                return phrase, after
            return replace(phrase, end=self._tokens[start].end), start + 1
        if phrase.head == "pair" and held.head in lexicon().pair:
            return replace(held, determiner=phrase.determiner), end
        if phrase.head in lexicon().measure and not held.determiner:
            return replace(phrase, end=held.end), end
        return phrase, after

    def _linked_end(self, after: int) -> int | None:
        if after >= len(self._tokens) or self._tokens[after].parted or self._tokens[after].lower not in _LINKS:
            return None
        linked, _ = self._phrase(after + 1) if after + 1 < len(self._tokens) else (None, 0)
        return None if linked is None else linked.end


def _is_adverb(word: str) -> bool:
    known = lexicon()
    return word in known.adverb or (len(word) > 4 and word.endswith("ly") and word not in known.adjective
                                    and not is_known_noun(word))


def _ends_as_adjective(word: str) -> bool:
    return (len(word) > 5 and word.endswith(("ful", "less", "ous", "ish", "ible", "like", "-eyed", "-haired"))
            and not word.endswith("fish") and not is_known_noun(word))
