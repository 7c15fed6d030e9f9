"""Who names entity words: the rules on captions of all kinds, the language model on a server of this machine."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemint import language_model
from alchemint.annotate.lexicon import lexicon, nouns
from alchemint.annotate.namers import LlmNamer, RuleNamer
from alchemint.annotate.recipe import Llm
from alchemint.annotate.words import faults_of
from alchemint.toyworld import WorldConfig, render_clip, sprites
from alchemint.toyworld.captions import with_article
from tests.language_server import LanguageServer, serving

SMALL = WorldConfig(width=32, height=32, num_frames=13, fps=6.0, reference_size=32)
VOCABULARY = sorted(set().union(nouns(), *(getattr(lexicon(), name) for name in (
    "body_part", "group", "background", "no_thing", "pronoun", "indefinite", "definite", "plural_determiner",
    "preposition", "conjunction", "verb", "adjective", "compound"))))
PUNCTUATION = [*",.;-", "'", '"', "'s"]
SENTENCES = st.lists(st.sampled_from(VOCABULARY) | st.sampled_from(["a", "the", "of", "and", "in", "with", "is"])
                     | st.sampled_from(PUNCTUATION) | st.text(max_size=4), max_size=24).map(" ".join)


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with serving() as running:
        yield running


def namer_at(url: str, **options: int) -> LlmNamer:
    pytest.importorskip("openai")
    return LlmNamer(language_model.connect(url, retries=0), Llm(url=url, model="m", **options), most=2)


@settings(max_examples=300, deadline=None)
@given(SENTENCES, st.integers(1, 4))
def test_words_by_rules_keep_the_rules(caption: str, most: int) -> None:
    words = RuleNamer(most).name(caption)
    assert all(word in caption for word in words)
    assert faults_of(words, caption, most) == []
    places = [caption.index(word) for word in words]
    assert len(words) < 2 or places == sorted(places) or any(caption.count(word) > 1 for word in words)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_subject_of_toyworld_is_named_alone_and_as_a_twin(split: str) -> None:
    for subject in sprites.subjects(split):
        word = subject.word
        assert RuleNamer().name(f"We see {with_article(word)} that sways in a cozy room.") == (word,)
        twins = f"A view of outer space where a red {word} hops and a blue {word} drives down."
        assert RuleNamer().name(twins) == (f"red {word}", f"blue {word}")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_captions_of_toyworld(split: str) -> None:
    for index in range(25):
        clip = render_clip(split, index, SMALL)
        assert {word.lower() for word in RuleNamer().name(clip.caption)} == {sub.word for sub in clip.subjects}


@pytest.mark.parametrize(("caption", "words"), [
    ("A dog barks at another dog.", ()),
    ("A red fox runs. The fox stops, and the red fox sits.", ("fox",)),
    ("A man in a grey suit meets a man in a black suit.", ("man in a grey suit", "man in a black suit")),
    ("Waves roll onto a beach under a cloudy sky.", ()),
    ("A chef in a white hat holds a pan.", ("chef", "pan")),
    ("A woman wearing a dress and a hat is playing guitar.", ("woman", "guitar")),
    ("A hat and a coat lie on a chair.", ("hat", "coat", "chair")),
    ("A lamp, a book, a vase and a cup stand by a cat.", ("lamp", "book", "vase", "cat")),
    ("", ()), ("漢字の字幕", ()), ("👍" * 50, ()),
])
def test_words_by_rules(caption: str, words: tuple[str, ...]) -> None:
    assert RuleNamer().name(caption) == words


def test_the_model_is_told_which_rule_it_broke(server: LanguageServer) -> None:
    server.answers += [json.dumps({"entities": entities}) for entities in (
        ["wolf", "sky"], ["red fox", "fox", "boy"], ["red fox", "boy"])]
    assert namer_at(server.url).name("A red fox and a boy under the sky.") == ("red fox", "boy")
    assert "at most 2" in server.requests[0]["messages"][0]["content"]
    told = [request["messages"][-1]["content"] for request in server.requests[1:]]
    assert '"wolf" does not stand in the caption' in told[0]
    assert '"sky" is a place' in told[0]
    assert "there are 3 entities; choose the 2" in told[1]
    assert '"fox" stands inside "red fox"' in told[1]


def test_no_entity_at_all_is_an_answer(server: LanguageServer) -> None:
    server.answers.append('{"entities": []}')
    assert namer_at(server.url).name("Rain falls.") == ()


def test_a_model_that_keeps_breaking_rules_is_given_up_with_the_rule(server: LanguageServer) -> None:
    server.answers += [json.dumps({"entities": [word]}) for word in ("sky", "cloud", "rain")]
    with pytest.raises(language_model.UnusableAnswerError, match=r'invalid after 2 attempts: "cloud" is a place'):
        namer_at(server.url, attempts=2).name("A cloud in the sky before the rain.")


def test_a_model_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"words\.model\.model"):
        LlmNamer(None, Llm()).name("A fox.")  # type: ignore[arg-type]
