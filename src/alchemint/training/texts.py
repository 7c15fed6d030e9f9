"""Texts as embeddings: from a text encoder, trained along or frozen, or from what was computed before."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from alchemint.model import text

Tensor = torch.Tensor


class Texts(Protocol):
    """Embeds texts: (texts, max_tokens, dim) float32, zero beyond a text's own tokens; and the mask (texts,
    max_tokens)."""

    def __call__(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]: ...


class EncodedTexts:
    """Runs a text encoder; with gradients where it is trained."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_encoder: UMT5EncoderModel, is_trained: bool) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._is_trained = is_trained

    def __call__(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See `Texts`."""
        device = self._text_encoder.device
        if not texts:
            empty = torch.zeros(0, max_tokens, self._text_encoder.config.d_model, device=device)
            return empty, empty[..., 0].bool()
        ids, mask = text.tokenize(self._tokenizer, texts, max_tokens, device)
        with torch.set_grad_enabled(self._is_trained and torch.is_grad_enabled()):
            return text.embed(self._text_encoder, ids, mask).float(), mask


class StoredTexts:
    """Looks embeddings up. `lookup` returns those of a text's own tokens, (tokens, dim)."""

    def __init__(self, lookup: Callable[[str], Tensor], device: torch.device) -> None:
        self._lookup = lookup
        self._device = device

    def __call__(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See `Texts`."""
        found = {one: self._lookup(one)[:max_tokens] for one in dict.fromkeys([*texts, ""])}
        dim = found[""].shape[1]
        embeds = torch.zeros(len(texts), max_tokens, dim)
        mask = torch.zeros(len(texts), max_tokens, dtype=torch.bool)
        for row, one in enumerate(texts):
            embeds[row, :len(found[one])] = found[one].float()
            mask[row, :len(found[one])] = True
        return embeds.to(self._device, non_blocking=True), mask.to(self._device, non_blocking=True)
