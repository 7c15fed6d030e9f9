"""The activations of the text encoder: the two halves of a UMT5 block, one after the other."""

from collections.abc import Mapping
from typing import Any

from alchemint.memory_estimate.ledger import Held, Ledger


def encode_texts(ledger: Ledger, config: Mapping[str, Any], num_texts: int, num_tokens: int, itemsize: int) -> Held:
    """Walk through a UMT5EncoderModel of a config; return the embeddings."""
    dim, inner, heads = config["d_model"], config["num_heads"] * config["d_kv"], config["num_heads"]

    def states(width: int) -> Held:
        return ledger.new(num_texts, num_tokens, width, itemsize=itemsize)

    def scores() -> Held:
        return ledger.new(num_texts, heads, num_tokens, num_tokens, itemsize=itemsize)

    hidden = states(dim)
    bias = ledger.new(heads, num_tokens, num_tokens, itemsize=itemsize)
    mask = ledger.new(num_texts, num_tokens, num_tokens, itemsize=itemsize)
    # 1. Self-attention
    normed = states(dim)
    projected = [states(inner) for _ in range(3)]
    weights = scores()
    weights = scores()
    weights = scores()
    attended = states(inner)
    hidden = states(dim)
    del projected, weights, attended, normed
    # 2. Feed-forward
    normed = states(dim)
    wide = [states(config["d_ff"]) for _ in range(3)]
    out = states(dim)
    del wide, normed, hidden, bias, mask
    return out
