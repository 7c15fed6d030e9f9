"""Text to embeddings through Wan's kind of text encoder (UMT5): prompts, event captions and entity words alike.

Embeddings are zero beyond a text's own tokens, as Wan has it; masks are true for its tokens.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

Tensor = torch.Tensor


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int,
             device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return ids (texts, max_tokens) and mask (texts, max_tokens) bool; longer texts are cut, shorter ones padded."""
    tokens = tokenizer(list(texts), padding="max_length", max_length=max_tokens, truncation=True,
                       add_special_tokens=True, return_tensors="pt")
    return tokens.input_ids.to(device), tokens.attention_mask.bool().to(device)


def embed(text_encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Return embeddings (texts, tokens, text_dim), zero where the mask is false."""
    states = text_encoder(ids, attention_mask=mask.long()).last_hidden_state
    return states * mask.unsqueeze(-1).to(states.dtype)
