"""How many weights a model's parts have, by their configs."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from alchemint.memory_estimate.ledger import FLOAT32

Config = Mapping[str, Any]

QUANTISED = {"int8": 1.0, "fp8": 1.0, "nf4": 0.5 + 1 / 64, "gguf": 34 / 32}
"""Bytes of a quantised weight. gguf: Q8_0, a half-precision scale for 32 numbers; its files hold other kinds, too."""


def unpacking_bytes(quantize: str, itemsize: int) -> int:
    """Return the bytes that a quantised weight takes at most while it is unpacked for a use.

    torchao multiplies fp8 by its scales in float32, GGUF's kinds are unpacked in half precision, and then cast.
    """
    between = {"fp8": 2 * FLOAT32, "gguf": 2}.get(quantize, 0)
    return between if between >= FLOAT32 == itemsize else between + itemsize


@dataclass(frozen=True)
class TransformerWeights:
    """Numbers of weights. linear: matrices of a block's linear layers, which may be quantised, and biases their biases;
    others: the rest of a block, in the model's type, and exact: those in float32. around, around_exact: of what is
    around the blocks. largest: the largest matrix."""

    num_blocks: int
    linear: int
    biases: int
    others: int
    exact: int
    around: int
    around_exact: int
    largest: int

    @property
    def count(self) -> int:
        """The number of all weights."""
        return (self.num_blocks * (self.linear + self.biases + self.others + self.exact)
                + self.around + self.around_exact)

    def block_bytes(self, itemsize: int, casts: bool = False, quantize: str | None = None) -> int:
        """Return the bytes of a block, its floats of `itemsize` bytes, or its linear layers in float8 or quantised."""
        linear = self.linear * (QUANTISED[quantize] if quantize else 1 if casts else itemsize)
        scales = FLOAT32 * self.biases if quantize in ("int8", "fp8") else 0
        return round(linear) + scales + self.biases * (1 if casts else itemsize) + (
            self.others * itemsize + self.exact * FLOAT32)

    def around_bytes(self, itemsize: int) -> int:
        """Return the bytes of what is around the blocks."""
        return self.around * itemsize + self.around_exact * FLOAT32


def transformer_weights(config: Config) -> TransformerWeights:
    """Return the weights of an AlchemintTransformer3DModel."""
    dim, text_dim = config["num_attention_heads"] * config["attention_head_dim"], config["text_dim"]
    ffn_dim, pixels = config["ffn_dim"], prod(config["patch_size"])
    attention, attention_biases, norms = 4 * dim * dim, 4 * dim, 2 * dim
    projection = _layer(text_dim, dim) + _layer(dim, dim)
    events = attention + attention_biases + norms if config["event_encoding"] is not None else 0
    return TransformerWeights(
        num_blocks=config["num_layers"],
        linear=2 * attention + 2 * dim * ffn_dim,
        biases=2 * attention_biases + ffn_dim + dim,
        others=2 * norms + events,
        exact=6 * dim + (2 * dim if config["cross_attn_norm"] else 0),
        around=(_layer(config["in_channels"] * pixels, dim) + _layer(dim, 6 * dim) + projection
                + _layer(dim, config["out_channels"] * pixels)
                + config["num_subject_indices"] * dim + projection + dim),
        around_exact=_layer(config["freq_dim"], dim) + _layer(dim, dim) + 2 * dim,
        largest=dim * max(dim, ffn_dim))


@dataclass(frozen=True)
class TextEncoderWeights:
    """Numbers of weights. embedding: of the token embedding. linear: of linear layers. largest: the largest of
    these."""

    embedding: int
    linear: int
    others: int
    largest: int

    @property
    def count(self) -> int:
        """The number of all weights."""
        return self.embedding + self.linear + self.others

    def num_bytes(self, itemsize: int, quantize: str | None = None) -> int:
        """Return the bytes, floats of `itemsize` bytes, or linear layers quantised."""
        quantised = quantize is not None and quantize != "gguf"
        return round(self.linear * (QUANTISED[quantize] if quantised and quantize else itemsize)
                     + (self.embedding + self.others) * itemsize)


def text_encoder_weights(config: Config) -> TextEncoderWeights:
    """Return the weights of a UMT5EncoderModel."""
    dim, inner, width = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    num_projections = 3 if config["feed_forward_proj"].startswith("gated") else 2
    per_layer = 4 * dim * inner + num_projections * dim * width
    others = 2 * dim + config["relative_attention_num_buckets"] * config["num_heads"]
    return TextEncoderWeights(config["vocab_size"] * dim, config["num_layers"] * per_layer,
                              config["num_layers"] * others + dim, dim * max(inner, width))


def vae_weights(config: Config) -> int:
    """Return the number of weights of an AutoencoderKLWan."""
    base, latent = config["base_dim"], config["z_dim"]
    factors, depth, down = config["dim_mult"], config["num_res_blocks"], config["temperal_downsample"]
    residual, last = config["is_residual"], len(factors) - 1

    widths = [base, *(base * factor for factor in factors)]
    encoder = _conv(27, config["in_channels"], base)
    for number, (before, after) in enumerate(pairwise(widths)):
        encoder += _residual_blocks(before, after, depth)
        if number < last:
            encoder += _conv(9, after, after) + (_conv(3, after, after) if down[number] else 0)
    encoder += _middle(widths[-1]) + widths[-1] + _conv(27, widths[-1], 2 * latent)

    base = config["decoder_base_dim"] or base
    widths = [base * factor for factor in (factors[-1], *reversed(factors))]
    decoder = _conv(27, latent, widths[0]) + _middle(widths[0])
    for number, (before, after) in enumerate(pairwise(widths)):
        decoder += _residual_blocks(before if residual or number == 0 else before // 2, after, depth + 1)
        if number < last:
            decoder += _conv(9, after, after if residual else after // 2)
            decoder += _conv(3, after, 2 * after) if down[last - 1 - number] else 0
    decoder += widths[-1] + _conv(27, widths[-1], config["out_channels"])
    return encoder + decoder + _conv(1, 2 * latent, 2 * latent) + _conv(1, latent, latent)


def _layer(num_inputs: int, num_outputs: int) -> int:
    return (num_inputs + 1) * num_outputs


def _conv(size: int, num_inputs: int, num_outputs: int) -> int:
    return (size * num_inputs + 1) * num_outputs


def _residual_blocks(before: int, after: int, count: int) -> int:
    total = 0
    for _ in range(count):
        total += before + after + _conv(27, before, after) + _conv(27, after, after)
        total += _conv(1, before, after) if before != after else 0
        before = after
    return total


def _middle(width: int) -> int:
    return _residual_blocks(width, width, 2) + width + _conv(1, width, 3 * width) + _conv(1, width, width)
