"""Noun phrases: where they begin and end."""

import pytest

from alchemint.annotate.noun_phrases import noun_phrases, tokens_of


def nouns_of(caption: str) -> list[str]:
    return [caption[phrase.noun_start:phrase.end] for phrase in noun_phrases(caption)]


@pytest.mark.parametrize(("caption", "nouns"), [
    ("A red fox trots across a sunny meadow.", ["fox", "meadow"]),
    ("A steam train rolls out of the tunnel.", ["steam train", "tunnel"]),
    ("A bus stops; the bus stop is empty.", ["bus", "bus stop"]),
    ("A sleeping bulldog, a parked car and a racing car.", ["bulldog", "car", "racing car"]),
    ("A man walking his dog", ["man", "dog"]),
    ("A sled pulled by a husky", ["sled", "husky"]),
    ("A black and white cat with a big, round head", ["cat", "head"]),
    ("A chocolate brown labrador barks.", ["labrador"]),
    ("A cellist and a dancer rehearse on a bare stage.", ["cellist", "dancer", "stage"]),
    ("A sloth hops and a bell pepper wobbles.", ["sloth", "bell pepper"]),
    ("The little boy lets go of the balloon.", ["boy", "balloon"]),
    ("Woman drinking coffee near the window", ["Woman", "coffee", "window"]),
    ("She wants to fish with her brother.", ["brother"]),
    ("A woman's long hair and the dog's tail", ["hair", "tail"]),
    ("A glass of cold milk and a slice of pizza.", ["glass of cold milk", "slice of pizza"]),
    ("A pair of scissors lies there.", ["scissors"]),
    ("No cars are there; a knight without a helmet waits.", ["knight"]),
    ("A statue of a lion and a photo of a dog beside a cat.", ["statue", "photo", "cat"]),
    ('A sign reads "Beware of the dog" and a man laughs.', ["sign", "man"]),
    ('"A fox meets a goat."', ["fox", "goat"]),
    ("A clownfish swims to a rhinoceros.", ["clownfish", "rhinoceros"]),
    ("The sun sets, painting the clouds.", ["sun", "clouds"]),
    ("", []), ("...", []), ("a", []), ("the of and", []), ("A's", []),
])
def test_what_is_named(caption: str, nouns: list[str]) -> None:
    assert nouns_of(caption) == nouns


def test_a_phrase_knows_its_parts() -> None:
    caption = "We see an old man in a grey suit."
    man, suit = noun_phrases(caption)
    assert (man.determiner, man.modifiers, man.head, man.before) == ("an", ("old",), "man", "see")
    assert caption[man.modified_start:man.linked_end] == "old man in a grey suit"
    assert (suit.head, suit.before, suit.linked_end) == ("suit", "in", None)


def test_tokens_keep_their_places() -> None:
    text = "The go-kart’s driver, 2 cats"
    tokens = tokens_of(text)
    assert [text[token.start:token.end] for token in tokens] == ["The", "go-kart’s", "driver", "2", "cats"]
    assert [token.parted for token in tokens] == [False, False, False, True, False]
    assert tokens[1].possessive
