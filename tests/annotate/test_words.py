"""The rules that entity words keep: each broken by words that break it, and by none that do not."""

import pytest

from alchemint.annotate.words import RULES, broken_rules, faults_of, head_of, stands_in

CUPS = "A red cup and a blue cup stand on the old table in a sunny room; the red cup falls."


@pytest.mark.parametrize(("rule", "caption", "word"), [
    ("not in the caption", "A fox meets an ox.", "ox "),
    ("not in the caption", "A fox meets a goat.", "ox"),
    ("not in the caption", "A Red Fox meets a goat.", "red fox"),
    ("not in the caption", "A go-kart spins.", "kart"),
    ("not in the caption", "A fox.", ""),
    ("determiner", "A fox runs past her dog.", "her dog"),
    ("determiner", "A fox runs past the dog.", "the dog"),
    ("pronoun", "A woman waves as she leaves.", "she"),
    ("pronoun", "Nobody is in the car.", "Nobody"),
    ("body part", "A woman's hands hold a cup.", "hands"),
    ("body part", "A dog wags its long tail.", "long tail"),
    ("group", "A crowd watches a clown.", "crowd"),
    ("group", "Three dogs chase a ball.", "dogs"),
    ("group", "Three dogs chase a ball.", "Three dogs"),
    ("group", "Children play with a ball.", "Children"),
    ("group", "A group of tourists follows a guide.", "group of tourists"),
    ("group", "Three sheep stand behind a fence.", "sheep"),
    ("group", "A bride and groom dance.", "bride and groom"),
    ("group", "A pair of shoes stands by the door.", "pair of shoes"),
    ("background", "A kite in the cloudy sky.", "cloudy sky"),
    ("background", "A dog runs over the grass.", "grass"),
    ("background", "A man in a hospital corridor.", "hospital corridor"),
    ("no thing", "A red fox runs quickly.", "red"),
    ("no thing", "A man is riding a horse.", "riding"),
    ("no thing", "A close-up of a bee at the edge of a leaf.", "close-up"),
    ("no thing", "A dog looks at the camera.", "camera"),
    ("ambiguous", CUPS, "cup"),
    ("ambiguous", "A dog barks at another dog.", "dog"),
    ("ambiguous", "A man in a grey suit meets a man in a black suit.", "man"),
])
def test_a_rule_is_broken(rule: str, caption: str, word: str) -> None:
    assert rule in broken_rules(word, caption)
    assert f'"{word}"' in broken_rules(word, caption)[rule]


@pytest.mark.parametrize(("caption", "words"), [
    (CUPS, ["red cup", "blue cup", "table"]),
    ("A Red Fox meets a goat. The fox waits.", ["Fox", "goat"]),
    ("A woman pours a glass of milk, and the milk glass falls.", ["woman", "glass of milk"]),
    ("A sheep and a fish stand beside a bus and an octopus.", ["sheep", "fish", "bus", "octopus"]),
    ("A man with a pair of scissors cuts a hot dog with a camera.", ["man", "scissors", "hot dog", "camera"]),
    ("A street musician finds a treasure chest.", ["street musician", "treasure chest"]),
    ("A man in a grey suit meets a man in a black suit.", ["man in a grey suit", "man in a black suit"]),
    ("An orange bobs, a fly flutters and a saw rolls.", ["orange", "fly", "saw"]),
    ("A quokka waves.", ["quokka"]),
    ("A café owner feeds an emu.", ["café owner", "emu"]),
])
def test_sound_words_break_none(caption: str, words: list[str]) -> None:
    assert faults_of(words, caption, 4) == []


def test_words_beside_each_other() -> None:
    caption = "A racing car passes a bus and the car behind it, a car park and a toy car."
    assert "inside another" in broken_rules("car", caption, ["racing car"])
    assert "inside another" in broken_rules("bus", caption, ["Bus"])
    assert "inside another" not in broken_rules("racing car", caption, ["car", "bus"])
    assert faults_of(["bus"] * 2, "A bus.", 1) == [
        "there are 2 entities; choose the 1 that matter most", '"bus" is chosen twice; choose it once']


def test_faults_name_each_rule_in_a_line() -> None:
    faults = faults_of(["sky", "she", "wolf"], "She looks at the sky: she sees a fox.", 4)
    assert [next(part for part in ("place", "pronoun", "does not stand") if part in fault) for fault in faults] == [
        "place", "pronoun", "does not stand"]
    assert set(RULES) >= set(broken_rules("sky", "The sky."))


@pytest.mark.parametrize(("word", "head"), [
    ("red fox", "fox"), ("tall glass of milk", "glass"), ("man in a grey suit", "man"), ("Hot Dog", "hot dog"),
    ("giant hot air balloon", "hot air balloon"), ("", ""), ("in", "in")])
def test_the_head_of_a_word(word: str, head: str) -> None:
    assert head_of(word) == head


def test_whole_words_stand_in_a_caption() -> None:
    assert stands_in("C++ book", "A C++ book.")
    assert not stands_in("c", "A C++ book.")
    assert not stands_in(" ", "A b.")
