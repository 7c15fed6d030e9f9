"""The tiny tokenizer: any text goes in, and comes out again."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from alchemint.training.tokenizer import load_or_train


def decoded(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("text", ["a red balloon", "xylophone quokkas", "naïve 東京 🦊 ½", "tab\there", "--- 3.14!?"])
def test_unknown_words_fall_to_pieces_and_come_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    expected = text.replace("½", "1⁄2").lower()
    assert decoded(tokenizer, text) == expected
    assert tokenizer(text).input_ids[-1] == tokenizer.eos_token_id


def test_a_known_word_is_one_piece_and_an_unknown_one_many(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer("balloon").input_ids) == 2
    assert len(tokenizer("quokka").input_ids) > 4


def test_case_does_not_matter(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("A Red BALLOON").input_ids == tokenizer("a red balloon").input_ids


def test_the_empty_text_is_its_end_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]


def test_it_is_trained_once_and_then_read(tmp_path: Path) -> None:
    first = load_or_train(tmp_path, ["a fox trots"] * 3, 300)
    again = load_or_train(tmp_path, ["other words entirely"] * 3, 300)
    assert again.get_vocab() == first.get_vocab()
    assert (again.pad_token, again.eos_token) == ("<pad>", "</s>")
