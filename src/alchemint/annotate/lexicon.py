"""What the rules of entity words know of English (lexicon.toml), and a little of its morphology. All in lower case."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_SINGULAR_ENDINGS = ("ss", "us", "is")
_PARTICIPLES = ("ing", "ed")
_SHORTEST_PARTICIPLE = 5


@dataclass(frozen=True)
class Lexicon:
    """Words by what they are; see lexicon.toml for what each list holds. `compound` has words of several words."""

    body_part: frozenset[str]
    group: frozenset[str]
    background: frozenset[str]
    no_thing: frozenset[str]
    pair: frozenset[str]
    singular_s: frozenset[str]
    same_in_plural: frozenset[str]
    irregular_plural: frozenset[str]
    measure: frozenset[str]
    depiction: frozenset[str]
    clothing: frozenset[str]
    pronoun: frozenset[str]
    indefinite: frozenset[str]
    definite: frozenset[str]
    plural_determiner: frozenset[str]
    preposition: frozenset[str]
    conjunction: frozenset[str]
    adverb: frozenset[str]
    verb: frozenset[str]
    adjective: frozenset[str]
    compound: frozenset[str]
    people: frozenset[str]
    animal: frozenset[str]
    vehicle: frozenset[str]
    object: frozenset[str]
    ending: frozenset[str]

    @property
    def determiner(self) -> frozenset[str]:
        """Words that open a noun phrase."""
        return self.indefinite | self.definite | self.plural_determiner | {"no"}


@cache
def lexicon() -> Lexicon:
    """Return the lexicon that comes with the package."""
    tables = tomllib.loads(resources.files(__package__).joinpath("lexicon.toml").read_text(encoding="utf-8"))
    lists = {name: words for table in tables.values() for name, words in table.items()}
    return Lexicon(**{name: frozenset(" ".join(words.split()).split(", ") if name == "compound" else words.split())
                      for name, words in lists.items()})


@cache
def nouns() -> frozenset[str]:
    """Return the nouns that name things of their own right."""
    known = lexicon()
    return (known.people | known.animal | known.vehicle | known.object | known.ending | known.pair | known.clothing
            | known.same_in_plural | known.measure)


def is_plural(noun: str) -> bool:
    """Tell whether a noun is one for several things, by its form; pairs of one piece (scissors) are not."""
    known = lexicon()
    if noun in known.irregular_plural:
        return True
    if noun in nouns() or noun in known.singular_s:
        return False
    return len(noun) > 3 and noun.endswith("s") and not noun.endswith(_SINGULAR_ENDINGS)


def is_participle(word: str) -> bool:
    """Tell whether a word looks like a deed (riding) or what was done (parked), and is not known as a noun."""
    return len(word) >= _SHORTEST_PARTICIPLE and word.endswith(_PARTICIPLES) and word not in nouns()


def is_verb_in_s(word: str) -> bool:
    """Tell whether a word after a noun may be its verb, as in "a fox trots"."""
    return len(word) > 2 and (is_plural(word) or word in {"has", "does", "goes", "is", "was"})


def is_known_noun(word: str) -> bool:
    """Tell whether a word is a noun of the lexicon, be it one that makes no entity."""
    known = lexicon()
    return any(word in words for words in (nouns(), known.body_part, known.group, known.background, known.no_thing,
                                           known.irregular_plural))


def singulars(noun: str) -> tuple[str, ...]:
    """Return what a noun's singular may be, itself first."""
    forms = [noun]
    if noun.endswith("s"):
        forms.append(noun[:-1])
    if noun.endswith("es"):
        forms.append(noun[:-2])
    if noun.endswith("ies"):
        forms.append(noun[:-3] + "y")
    if noun.endswith("ves"):
        forms += [noun[:-3] + "f", noun[:-3] + "fe"]
    return tuple(forms)
