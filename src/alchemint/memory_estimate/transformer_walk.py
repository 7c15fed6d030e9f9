"""The activations of the transformer: a walk through alchemint.model.transformer and diffusers' transformer_wan.

    B batch, V video tokens, C condition tokens (reference patches and word tags), S = V + C, d model width
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from alchemint.memory_estimate.ledger import COMPLEX128, FLOAT32, Held, Ledger


@dataclass(frozen=True)
class Pass:
    """The lengths of a pass. per_token: a timestep for each video token. encoded: the references' keys and values are
    there from before; encoding: they are what the pass is for."""

    batch: int
    grid: tuple[int, int, int]
    num_references: int
    num_prompt_tokens: int
    num_event_tokens: int = 0
    per_token: bool = False
    encoded: bool = False
    encoding: bool = False


@dataclass(frozen=True)
class WeightUse:
    """What a block's layers do with their weights at each use. storage: bytes of a number that is cast before and
    after, or None. unpacking: bytes that a number takes at most while it is unpacked beside what is stored, or None."""

    storage: int | None = None
    unpacking: int | None = None


class TransformerWalk:
    """A walk through the forward pass of an AlchemintTransformer3DModel of a config, its floats of `itemsize` bytes."""

    def __init__(self, ledger: Ledger, config: Mapping[str, Any], itemsize: int, lengths: Pass,
                 weights: WeightUse | None = None) -> None:
        self.ledger, self.config, self.itemsize, self.lengths = ledger, config, itemsize, lengths
        self.weights = weights or WeightUse()
        self.dim = config["num_attention_heads"] * config["attention_head_dim"]
        patches = lengths.grid[1] * lengths.grid[2]
        self.video = 0 if lengths.encoding else lengths.grid[0] * patches
        self.given = 0 if lengths.encoded else lengths.num_references
        self.conditions = self.given * (patches + config["num_word_tokens"])
        self.kept = lengths.num_references * (patches + config["num_word_tokens"]) if lengths.encoded else 0
        self.tokens = self.video + self.conditions
        one_way = config.get("reference_attention") == "one_way"
        self.plain = not (one_way and self.conditions) and not lengths.encoded
        self.split = one_way and bool(self.video and self.conditions)

    def forward(self) -> list[Held]:
        """Walk through a whole pass; return the sample, or the keys and values of all blocks."""
        ledger, batch, size = self.ledger, self.lengths.batch, self.itemsize
        # 1. Rotary tables; 2. tokens
        rotary = self._rotary()
        tokens = self._tokens()
        # 3. Modulation and texts
        temb, modulation = self._time()
        prompt = self._text(self.lengths.num_prompt_tokens)
        events = self._text(self.lengths.num_event_tokens) if self.lengths.num_event_tokens else None
        if events is not None:
            rotary += tuple(ledger.new(batch, self.video, self.config["attention_head_dim"] // 2) for _ in range(2))
        # 4. Blocks: what one was called with lives until the next is called; further ones only add what is kept
        called_with = tokens
        kept: list[Held] = []
        num_layers = self.config["num_layers"]
        for _ in range(num_layers if self.lengths.encoding else min(2, num_layers)):
            called_with = tokens
            tokens, keys_values = self._block(tokens, modulation)
            kept.extend(keys_values)
        if self.lengths.encoding:
            return kept
        # 5. Out
        final = ledger.new(batch, self.video if self.lengths.per_token else 1, 2, self.dim)
        normed = self._layer_norm(ledger.new(batch, self.video, self.dim)
                                  if self.conditions or size != FLOAT32 else tokens)
        scaled = ledger.like(normed)
        tokens = ledger.cast(ledger.like(scaled), size)
        patches = self.config["out_channels"] * prod(self.config["patch_size"])
        projected = ledger.new(batch, self.video, patches, itemsize=size)
        sample = ledger.like(projected)
        del rotary, temb, prompt, events, called_with, final, normed, scaled, tokens, projected
        return [sample]

    def _rotary(self) -> tuple[Held, ...]:
        pairs, batch = self.config["attention_head_dim"] // 2, self.lengths.batch
        given = self.tokens if not self.lengths.encoding else self.lengths.grid[0] * prod(
            self.lengths.grid[1:]) + self.conditions
        video = self.ledger.new(given - self.conditions, pairs, itemsize=COMPLEX128)
        table = self.ledger.new(batch, given, pairs, itemsize=COMPLEX128) if self.conditions else video
        batch = batch if self.conditions else 1
        repeated = self.ledger.new(batch, given, 2 * pairs, itemsize=COMPLEX128)
        tables = tuple(self.ledger.new(batch, given, 2 * pairs) for _ in range(2))
        del video, table, repeated
        return tables

    def _tokens(self) -> Held:
        """Patch embedding of the video and of the references; both in one sequence."""
        ledger, batch, size = self.ledger, self.lengths.batch, self.itemsize
        video = None
        if self.video:
            convolved = ledger.new(batch, self.video, self.dim, itemsize=size)
            video = ledger.like(convolved)
            del convolved
        if not self.conditions:
            assert video is not None
            return video
        patches = self.given * prod(self.lengths.grid[1:])
        latents = ledger.new(batch, patches, self.config["in_channels"] * prod(self.config["patch_size"]),
                             itemsize=size)
        images = ledger.new(batch, patches, self.dim, itemsize=size)
        indexed = ledger.like(images)
        conditions = ledger.new(batch, self.conditions, self.dim, itemsize=size)
        del images, indexed, latents
        return conditions if video is None else ledger.new(batch, self.tokens, self.dim, itemsize=size)

    def _time(self) -> tuple[Held, Held]:
        ledger, size = self.ledger, self.itemsize
        rows = self.lengths.batch * (self.video if self.lengths.per_token else 1)
        sinusoid = ledger.new(rows, self.config["freq_dim"])
        hidden = ledger.new(rows, self.dim)
        hidden = ledger.like(hidden)
        embedded = ledger.new(rows, self.dim)
        del hidden
        temb = ledger.cast(embedded, size)
        del embedded, sinusoid
        activated = ledger.like(temb)
        modulation = ledger.new(rows, 6 * self.dim, itemsize=size)
        del activated
        return temb, modulation

    def _text(self, num_tokens: int) -> Held:
        hidden = self.ledger.new(self.lengths.batch, num_tokens, self.dim, itemsize=self.itemsize)
        hidden = self.ledger.like(hidden)
        return self.ledger.like(hidden)

    # A block

    def _block(self, called_with: Held, temb: Held) -> tuple[Held, tuple[Held, ...]]:
        ledger, size = self.ledger, self.itemsize
        modulation = self._modulation(temb)
        hidden = called_with

        # 1. Self-attention
        normed = ledger.cast(self._shift(self._scale(self._layer_norm(ledger.cast(hidden, FLOAT32)))), size)
        attended, kept = self._self_attention(normed)
        hidden = ledger.cast(self._residual(hidden, attended), size)

        # 2. Cross-attention and events
        normed = ledger.cast(self._layer_norm(ledger.cast(hidden, FLOAT32)), size) if self.config[
            "cross_attn_norm"] else ledger.cast(ledger.cast(hidden, FLOAT32), size)
        attended = self._cross_attention(normed, self.tokens, self.lengths.num_prompt_tokens)
        timed = None
        if self.lengths.num_event_tokens:
            timed = self._event_attention(normed)
            timed = ledger.like(timed)
            attended = self._joined(timed)
        hidden = ledger.like(hidden)

        # 3. Feed-forward
        normed = self._shift(self._scale(self._layer_norm(ledger.cast(hidden, FLOAT32))))
        fed = self._feed_forward(ledger.cast(normed, size))
        hidden = ledger.cast(self._residual(hidden, fed, upcast=True), size)
        del modulation, attended, timed, normed, fed
        return hidden, kept

    def _modulation(self, temb: Held) -> Held:
        upcast = self.ledger.cast(temb, FLOAT32)
        table = self.ledger.like(upcast)
        del upcast
        return table

    def _layer_norm(self, hidden: Held) -> Held:
        out = self.ledger.like(hidden)
        statistics = self.ledger.new(2, *hidden.shape[:-1])
        del statistics
        return out

    def _scale(self, hidden: Held, plus_one: bool = True) -> Held:
        """Multiply by each segment's modulation, in float32."""
        ledger, batch = self.ledger, self.lengths.batch
        if plus_one and self.lengths.per_token:
            ledger.touch(batch * self.video * self.dim * FLOAT32)
        if not self.conditions:
            return ledger.like(hidden, FLOAT32)
        video = ledger.new(batch, self.video, self.dim)
        conditions = ledger.new(batch, self.conditions, self.dim)
        out = ledger.new(batch, self.tokens, self.dim)
        del video, conditions
        return out

    def _shift(self, hidden: Held) -> Held:
        return self._scale(hidden, plus_one=False)

    def _residual(self, hidden: Held, update: Held, upcast: bool = False) -> Held:
        first = self.ledger.cast(hidden, FLOAT32)
        second = self._scale(self.ledger.cast(update, FLOAT32) if upcast else update, plus_one=False)
        out = self.ledger.like(first)
        del second
        return out

    def _joined(self, timed: Held) -> Held:
        video = self.ledger.like(timed)
        out = self.ledger.new(self.lengths.batch, self.tokens, self.dim, itemsize=self.itemsize)
        del video
        return out

    def _linear(self, num_tokens: int, num_inputs: int, num_outputs: int) -> Held:
        """A layer whose weights are quantised, or stored in a smaller type, brings them into shape first."""
        ledger, weights = self.ledger, self.weights
        number = num_inputs * num_outputs
        shaped = None
        if weights.unpacking is not None:
            ledger.touch(number * weights.unpacking)
        if weights.storage is not None or weights.unpacking is not None:
            shaped = ledger.new(number, itemsize=self.itemsize)
        freed = number * (weights.storage or 0)
        ledger.add(-freed)
        out = ledger.new(self.lengths.batch, num_tokens, num_outputs, itemsize=self.itemsize)
        ledger.add(freed)
        del shaped
        return out

    def _square(self, num_tokens: int) -> Held:
        return self._linear(num_tokens, self.dim, self.dim)

    def _attend(self, num_queries: int) -> Held:
        out = self.ledger.new(self.lengths.batch, num_queries, self.dim, itemsize=self.itemsize)
        logsumexp = self.ledger.new(self.lengths.batch, self.config["num_attention_heads"], num_queries)
        del logsumexp
        return out

    def _self_attention(self, normed: Held) -> tuple[Held, tuple[Held, ...]]:
        ledger, tokens = self.ledger, self.tokens
        query, key, value = (self._square(tokens) for _ in range(3))
        if self.plain and not self.lengths.encoding:
            query = ledger.like(query)
            key = ledger.like(key)
            query = self._rotate_in_place(query)
            key = self._rotate_in_place(key)
            out = self._attend(tokens)
            return self._square(tokens), ()
        query, key = ledger.like(query), ledger.like(key)
        query, key = self._rotate(query), self._rotate(key)
        seen: tuple[Held, ...] = (key, value)
        if self.kept:
            seen = tuple(ledger.new(self.lengths.batch, tokens + self.kept, self.dim, itemsize=self.itemsize)
                         for _ in range(2))
        if self.split:
            parts = self._attend(self.video), self._attend(self.conditions)
            out = ledger.like(query)
            del parts
        else:
            out = self._attend(tokens)
        output = self._square(tokens)
        del out, seen
        return output, (key, value) if self.lengths.encoding else ()

    def _rotate_in_place(self, states: Held) -> Held:
        """Wan's own: halves in float32, written into a new tensor."""
        out = self.ledger.like(states)
        halves = [self._half(states) for _ in range(3)]
        del halves
        return out

    def _rotate(self, states: Held) -> Held:
        """`event_attention.rotate`: both halves, stacked, then cast."""
        real = self._half(states)
        products = [self._half(states) for _ in range(3)]
        imaginary = products.pop()
        del products
        turned = self.ledger.like(states, FLOAT32)
        del real, imaginary
        return self.ledger.cast(turned, states.itemsize)

    def _half(self, states: Held) -> Held:
        return self.ledger.new(prod(states.shape) // 2)

    def _cross_attention(self, normed: Held, num_queries: int, num_keys: int) -> Held:
        ledger = self.ledger
        query, key, value = self._square(num_queries), self._square(num_keys), self._square(num_keys)
        query = ledger.like(query)
        key = ledger.like(key)
        out = self._attend(num_queries)
        result = self._square(num_queries)
        del query, key, value, out
        return result

    def _event_attention(self, normed: Held) -> Held:
        ledger, num_keys = self.ledger, self.lengths.num_event_tokens
        query = ledger.like(self._square(self.video))
        key = ledger.like(self._square(num_keys))
        value = self._square(num_keys)
        query, key = self._rotate(query), self._rotate(key)
        out = self._attend(self.video)
        result = self._square(self.video)
        del value, out
        return result

    def _feed_forward(self, normed: Held) -> Held:
        hidden = self._linear(self.tokens, self.dim, self.config["ffn_dim"])
        hidden = self.ledger.like(hidden)
        return self._linear(self.tokens, self.config["ffn_dim"], self.dim)
