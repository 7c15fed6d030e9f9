"""How much arithmetic a forward pass and a training step of the AlcheMinT transformer take.

Counted are matrix products, of layers and of attention, with 2 operations a multiply-add; norms, activations, rotary
tables and modulation are not. All is for batch 1 with one timestep a sample, and depends on the configuration and the
lengths alone: no model is built.

    V = T h w video tokens, N references of h w patches and L word tokens each, R = N h w, W = N L, S = V + R + W
    P prompt tokens, E events of M tokens, dim model width
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

LatentShape = tuple[int, int, int]


class Layer(NamedTuple):
    """A linear layer, or a convolution that doesn't overlap: how many tokens go through it, and its two widths."""

    num_tokens: int
    num_inputs: int
    num_outputs: int


@dataclass(frozen=True)
class _Products:
    """The matrix products of a forward pass: Wan's own layers in and around the blocks, the new ones, attention."""

    around: list[Layer]
    blocks: list[Layer]
    new: list[Layer]
    attention: int

    @property
    def forward(self) -> int:
        return _flops([*self.around, *self.blocks, *self.new]) + self.attention


def forward_flops(config: Mapping[str, Any], latent_shape: LatentShape, num_references: int, num_prompt_tokens: int,
                  num_events: int = 0, num_event_tokens: int = 0, encoded_references: bool = False) -> int:
    """Return the operations of one forward pass at batch 1.

    config: that of an AlchemintTransformer3DModel. latent_shape: (T, H, W). num_references: groups of reference
    tokens, one for each view and interval. num_prompt_tokens: 512 in Wan, padding included; so are the
    num_event_tokens of each of the num_events. encoded_references: the references' own work was done before
    (`AlchemintTransformer3DModel.encode_references`).

    Raises ValueError for events where the model has no event branch, and for encoded references where it can't encode
    them.
    """
    return _products(config, latent_shape, num_references, num_prompt_tokens, num_events, num_event_tokens,
                     encoded_references).forward


def training_flops(config: Mapping[str, Any], latent_shape: LatentShape, num_references: int, num_prompt_tokens: int,
                   num_events: int = 0, num_event_tokens: int = 0, activation_checkpointing: bool = False,
                   lora_rank: int | None = None) -> int:
    """Return the operations of a forward and a backward pass at batch 1.

    Each product y = x w has two in the backward pass, for the gradients of x and of w: 3 times the forward pass in
    all. With a lora_rank Wan's layers are frozen and have no gradient of w, while both factors of attention's
    products, the adapters and the new layers (word tags, event branch) have all:

        2 (Wan's layers) + 3 (attention + new layers + adapters)

    where an adapter of rank r on a layer of widths i and o is r (i + o) multiply-adds a token, and every linear layer
    of Wan's blocks has one. Activation checkpointing runs the forward pass, adapters included, once more.

    Both are slightly too high: inputs of the first layers need no gradient, and what is around the blocks isn't run
    again. The arguments are those of `forward_flops`.
    """
    products = _products(config, latent_shape, num_references, num_prompt_tokens, num_events, num_event_tokens)
    forward, backward = products.forward, 2 * products.forward
    if lora_rank is not None:
        adapters = _flops(Layer(layer.num_tokens, lora_rank, layer.num_inputs + layer.num_outputs)
                          for layer in products.blocks)
        forward += adapters
        backward += 2 * adapters - _flops([*products.around, *products.blocks])
    return forward + backward + (forward if activation_checkpointing else 0)


def _products(config: Mapping[str, Any], latent_shape: LatentShape, num_references: int, num_prompt_tokens: int,
              num_events: int, num_event_tokens: int, encoded_references: bool = False) -> _Products:
    events = num_events * num_event_tokens
    if events and config["event_encoding"] is None:
        raise ValueError(f"{num_events} events are given, but this model has no event branch (event_encoding is null); "
                         "count without events")
    one_way = config.get("reference_attention") == "one_way"
    if encoded_references and not one_way:
        raise ValueError('references are encoded apart with reference_attention "one_way" only; count without')
    frames, height, width = (size // patch for size, patch in zip(latent_shape, config["patch_size"], strict=True))
    video, patches = frames * height * width, num_references * height * width
    words, prompt = num_references * config["num_word_tokens"], num_prompt_tokens
    conditions = patches + words
    sequence = video + conditions
    pairs = video * sequence + conditions * (conditions if one_way else sequence)
    if encoded_references:
        num_references = patches = words = 0
        sequence, pairs = video, video * sequence

    dim, text_dim = config["num_attention_heads"] * config["attention_head_dim"], config["text_dim"]
    pixels, num_layers = prod(config["patch_size"]), config["num_layers"]
    # Clean condition tokens have a modulation of their own.
    num_timesteps = 2 if num_references and config["condition_timestep"] == "clean" else 1
    around = [
        Layer(video + patches, config["in_channels"] * pixels, dim),
        Layer(num_timesteps, config["freq_dim"], dim), Layer(num_timesteps, dim, 7 * dim),
        Layer(prompt + events, text_dim, dim), Layer(prompt + events, dim, dim),
        Layer(video, dim, (config["out_channels"] or config["in_channels"]) * pixels),
    ]
    self_attention = [Layer(sequence, dim, dim)] * 4
    cross_attention = [Layer(sequence, dim, dim), Layer(prompt, dim, dim)] * 2
    feed_forward = [Layer(sequence, dim, config["ffn_dim"]), Layer(sequence, config["ffn_dim"], dim)]
    event_branch = [Layer(video, dim, dim), Layer(events, dim, dim)] * 2 if events else []
    return _Products(
        around,
        blocks=[*self_attention, *cross_attention, *feed_forward] * num_layers,
        new=[Layer(words, text_dim, dim), Layer(words, dim, dim), *event_branch * num_layers],
        # Queries by keys, then weights by values
        attention=num_layers * 2 * 2 * dim * (pairs + sequence * prompt + video * events))


def _flops(layers: Iterable[Layer]) -> int:
    return sum(2 * prod(layer) for layer in layers)
