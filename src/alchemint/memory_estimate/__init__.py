"""How much memory a call of the pipeline will take at its peak, told by its configs alone.

    peak = expected_peak(read_configs(folder), Work.of(storyboard, num_evaluations=3), MemoryOptions("low"), "cuda")

A call has three stages: encoding (texts and reference images), denoising, decoding; the peak is the greatest of them.
Each holds the weights that are on the device then, and the activations, which `transformer_walk`, `vae_walk` and
`text_walk` count tensor by tensor. Not counted are CUDA's own context, workspaces of cuDNN and cuBLAS, and what the
allocator keeps without using it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alchemint import timeline
from alchemint.memory import MemoryOptions
from alchemint.memory_estimate.configs import Configs, read_configs
from alchemint.memory_estimate.ledger import FLOAT32, Held, Ledger
from alchemint.memory_estimate.text_walk import encode_texts
from alchemint.memory_estimate.transformer_walk import Pass, TransformerWalk, WeightUse
from alchemint.memory_estimate.vae_walk import VaeWalk
from alchemint.memory_estimate.weights import (
    text_encoder_weights,
    transformer_weights,
    unpacking_bytes,
    vae_weights,
)

if TYPE_CHECKING:
    from alchemint.storyboard import Storyboard

__all__ = ["CUDA_CONTEXT", "Configs", "Peak", "Work", "expected_peak", "read_configs"]

CUDA_CONTEXT = 2**29
"""What CUDA takes for itself before the first tensor, about; it is told apart."""

ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Work:
    """What is to be made in one call.

    num_references: groups of reference tokens, one for each view and interval; num_views: the most views of a subject.
    num_evaluations: the most that a step of guidance takes, at once if `batched`.
    """

    width: int
    height: int
    num_frames: int
    num_references: int = 0
    num_views: int = 0
    num_events: int = 0
    num_evaluations: int = 1
    batched: bool = True

    @classmethod
    def of(cls, storyboard: "Storyboard", num_evaluations: int, batched: bool = True) -> "Work":
        """Return the work of a resolved storyboard."""
        assert storyboard.width and storyboard.height and storyboard.num_frames, "resolve the storyboard first"
        shown = [subject for subject in storyboard.subjects if subject.appears]
        return cls(storyboard.width, storyboard.height, storyboard.num_frames,
                   sum(len(subject.images) * len(subject.appears) for subject in shown),
                   max((len(subject.images) for subject in shown), default=0), len(storyboard.events),
                   num_evaluations, batched)


@dataclass(frozen=True)
class Peak:
    """The most bytes that tensors take on the device and in the host's memory, and the stage of the former. On a CPU
    the device is the host, and both are the same. stages: the bytes on the device of every stage."""

    device_bytes: int
    host_bytes: int
    stage: str
    stages: Mapping[str, int] = field(default_factory=dict)


def expected_peak(configs: Configs, work: Work, options: MemoryOptions, device: str = "cuda",
                  dtype: str = "bfloat16") -> Peak:
    """Return the peak of one call of a loaded pipeline.

    device: "cuda" or "cpu". dtype: of transformers and text encoder; the VAE is float32. Nothing is loaded.
    """
    itemsize = ITEMSIZES[dtype]
    kept = _Kept(configs, options, itemsize, offloads=device != "cpu")
    images = kept.vae if work.num_references else 0
    stages = {
        "encoding": kept.encoding(images, _encoding_images(configs, work, options),
                                  _encoding_texts(configs, work, itemsize)),
        "denoising": kept.denoising(images) + _denoising(configs, work, options, itemsize),
        "decoding": kept.decoding() + _decoding(configs, work, options),
    }
    stage = max(stages, key=lambda name: stages[name])
    pixels = work.num_frames * work.height * work.width * 3
    host = stages[stage] if device == "cpu" else kept.loaded() + 2 * pixels * FLOAT32
    return Peak(stages[stage], host, stage, stages)


class _Kept:
    """The bytes of weights, by stage."""

    def __init__(self, configs: Configs, options: MemoryOptions, itemsize: int, offloads: bool) -> None:
        self.options, self.itemsize = options, itemsize
        self.memory = options.memory if offloads else "high"
        self.vae = vae_weights(configs.vae) * FLOAT32
        self.text = text_encoder_weights(configs.text_encoder)
        self.text_bytes = self.text.num_bytes(itemsize, options.quantize)
        self.blocks, self.around, self.num_blocks = [], [], []
        self.uncast = [transformer_weights(config) for config in configs.transformers]
        for number, weights in enumerate(self.uncast):
            self.blocks.append(weights.block_bytes(itemsize, options.casts, options.quantize))
            self.around.append(weights.around_bytes(itemsize))
            self.num_blocks.append(weights.num_blocks)
            if configs.gguf_bytes:
                # The file's own kinds of quantisation; linear layers are nearly all of it.
                self.blocks[-1] = max(0, configs.gguf_bytes[number] - self.around[-1]) // weights.num_blocks

    def transformers(self) -> list[int]:
        return [count * block + around
                for count, block, around in zip(self.num_blocks, self.blocks, self.around, strict=True)]

    def encoding(self, images: int, by_images: int, by_texts: int) -> int:
        if self.memory == "high":
            return sum(self.transformers()) + self.text_bytes + self.vae + max(by_images, by_texts)
        if self.memory == "balanced":
            return self.text_bytes + images + max(by_images, by_texts)
        embedding = self.text.embedding * self.itemsize
        layers = 2 * self.text.largest * self.itemsize + by_texts
        return self.vae + max(embedding + self.text.largest * self.itemsize, layers, by_images)

    def denoising(self, images: int) -> int:
        if self.memory == "high":
            return sum(self.transformers()) + self.text_bytes + self.vae
        if self.memory == "balanced":
            return max(self.transformers()) + images
        return self.vae + max(around + 2 * block for block, around in zip(self.blocks, self.around, strict=True))

    def decoding(self) -> int:
        return self.denoising(0) if self.memory == "high" else self.vae

    def loaded(self) -> int:
        """Return the bytes in the host's memory while loading, before anything is cast."""
        if self.options.quantize:
            return sum(self.transformers()) + self.text_bytes + self.vae
        whole = sum(weights.num_blocks * weights.block_bytes(self.itemsize) + weights.around_bytes(self.itemsize)
                    for weights in self.uncast)
        return whole + self.text_bytes + self.vae


def _encoding_images(configs: Configs, work: Work, options: MemoryOptions) -> int:
    if not work.num_references:
        return 0
    ledger = Ledger()
    pixels = ledger.new(work.num_views, 3, work.height, work.width)
    VaeWalk(ledger, configs.vae, FLOAT32, 1 if options.tiles else work.num_views).encode(
        work.height, work.width, options.tiles)
    del pixels
    return ledger.peak


def _encoding_texts(configs: Configs, work: Work, itemsize: int) -> int:
    ledger = Ledger()
    words = configs.transformers[0]["num_word_tokens"]
    for count, length in ((1, configs.max_prompt_tokens), (work.num_references, words),
                          (work.num_events, configs.max_event_tokens)):
        if count and length:
            encode_texts(ledger, configs.text_encoder, count, length, itemsize)
    return ledger.peak


def _denoising(configs: Configs, work: Work, options: MemoryOptions, itemsize: int) -> int:
    """Return the bytes of a step: of latents, of conditions and of the transformer's own activations."""
    config, ratio = configs.transformers[0], configs.vae["scale_factor_spatial"]
    shape = (timeline.num_latents(work.num_frames), work.height // ratio, work.width // ratio)
    grid = tuple(size // patch for size, patch in zip(shape, config["patch_size"], strict=True))
    at_once = work.num_evaluations if work.batched else 1
    words, num_event_tokens = config["num_word_tokens"], work.num_events * configs.max_event_tokens
    ledger = Ledger()

    def conditions(count: int) -> list[Held]:
        """Prompt, references and events of `count` evaluations."""
        return [ledger.new(count, configs.max_prompt_tokens + num_event_tokens + work.num_references * words,
                           config["text_dim"], itemsize=itemsize),
                ledger.new(count, work.num_references, config["in_channels"], *shape[1:])]

    channels = config["in_channels"]
    latents = [ledger.new(channels, *shape) for _ in range(3)]
    branches = conditions(2)
    stacked = conditions(at_once) if at_once > 1 else []
    sample = [ledger.new(at_once, channels, *shape), ledger.new(at_once, channels, *shape, itemsize=itemsize)]
    use = WeightUse(1 if options.casts else None,
                    unpacking_bytes(options.quantize, itemsize) if options.quantize else None)
    one_way = config.get("reference_attention") == "one_way" and work.num_references > 0

    def walk(**flags: bool) -> list[Held]:
        lengths = Pass(at_once, (grid[0], grid[1], grid[2]), work.num_references, configs.max_prompt_tokens,
                       num_event_tokens, configs.expand_timesteps, **flags)
        return TransformerWalk(ledger, config, itemsize, lengths, use).forward()

    encoded = [walk(encoding=True) for _ in range(work.num_evaluations // at_once)] if one_way else []
    velocities = [ledger.new(channels, *shape) for _ in range(work.num_evaluations - at_once)]
    walk(encoded=one_way)
    del latents, branches, stacked, sample, encoded, velocities
    return ledger.peak


def _decoding(configs: Configs, work: Work, options: MemoryOptions) -> int:
    ratio, channels = configs.vae["scale_factor_spatial"], configs.vae["z_dim"]
    size = (timeline.num_latents(work.num_frames), work.height // ratio, work.width // ratio)
    ledger = Ledger()
    latents = [ledger.new(channels, *size) for _ in range(4)]
    video = VaeWalk(ledger, configs.vae, FLOAT32).decode(*size, tiled=options.tiles)
    joined = ledger.like(video)
    scaled = [ledger.like(joined) for _ in range(2)]
    del latents, video, joined, scaled
    return ledger.peak
