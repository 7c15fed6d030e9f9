"""Ending a pipeline's work in its midst: before any block of a transformer, any layer of the text encoder, and any
latent frame of the video VAE, rather than only after a whole step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from alchemint.pipeline import AlchemintPipeline


@contextmanager
def interruptible(pipeline: "AlchemintPipeline", check: Callable[[], None]) -> Iterator[None]:
    """Call `check`, which may raise, all along the pipeline's work; what it computes stays the same.

    When anything is raised, the VAE's memory of earlier frames is freed, and so is the device's cache.
    """
    handles = [module.register_forward_pre_hook(lambda *_: check()) for module in _stations(pipeline)]
    try:
        yield
    except BaseException:
        pipeline.vae.clear_cache()
        pipeline.maybe_free_model_hooks()
        _free_device_cache()
        raise
    finally:
        for handle in handles:
            handle.remove()


def _stations(pipeline: "AlchemintPipeline") -> "list[nn.Module]":
    layers: Any = pipeline.text_encoder.encoder.block
    blocks = [block for transformer in pipeline.transformers for block in transformer.blocks]
    return [*blocks, *layers, pipeline.vae.encoder, pipeline.vae.decoder]


def _free_device_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
