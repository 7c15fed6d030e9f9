"""Texts to embeddings: their lengths, their masks, and that padding leaves no trace."""

import torch
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from alchemint.model.text import embed, tokenize


def test_texts_are_padded_and_cut_to_one_length(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["fox", "", "a fox and a duck and a robot and a balloon"]
    ids, mask = tokenize(tokenizer, texts, 6, "cpu")
    assert ids.shape == mask.shape == (3, 6)
    for row, text in enumerate(texts):
        whole = tokenizer(text).input_ids
        assert mask[row].sum() == min(len(whole), 6)
        assert (ids[row][~mask[row]] == tokenizer.pad_token_id).all()
    assert ids[1, 0] == tokenizer.eos_token_id
    assert ids[2, -1] == tokenizer.eos_token_id


@torch.no_grad()
def test_an_embedding_does_not_depend_on_its_padding(
    tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel
) -> None:
    count = len(tokenizer("a red balloon").input_ids)
    alone, _ = _embedded(tokenizer, text_encoder, ["a red balloon"], count)
    padded, mask = _embedded(tokenizer, text_encoder, ["a red balloon", "a fox trots across the green meadow"], 20)
    assert torch.allclose(padded[0, :count], alone[0], atol=1e-5)
    assert mask[0].tolist() == [True] * count + [False] * (20 - count)
    assert (padded[~mask] == 0).all()
    assert (padded[mask].abs().sum(-1) > 0).all()


def _embedded(
    tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel, texts: list[str], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = tokenize(tokenizer, texts, max_tokens, "cpu")
    return embed(text_encoder, ids, mask), mask
