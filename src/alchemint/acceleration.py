"""Faster sampling: attention kernels, compiled blocks, step caches and several devices, set in one order.

    1. attention backend    which kernel computes self-attention and the prompt's cross-attention
    2. compilation          of the block's own forward, so that all hooks lie around it and none breaks its graph
    3. step cache           hooks around blocks
    4. several processes    the pipeline's groups

Whatever offloads goes on after these: its hooks lie outermost.
"""

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from alchemint.processes import join

if TYPE_CHECKING:
    from diffusers import FirstBlockCacheConfig, MagCacheConfig

    from alchemint.model.transformer import AlchemintTransformer3DModel
    from alchemint.pipeline import AlchemintPipeline

STEP_CACHES = {"first-block": 0.08, "mag": 0.06, "calibrate": 0.0}
"""Kinds of step caches, and the threshold of each that is taken when none is given."""

_RECOMPILATIONS = 64
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class StepCache:
    """Which steps skip blocks.

    kind: "first-block" where the first block's residual has changed by less than `threshold` of itself; "mag" while the
        error that the table `ratios` foretells is below `threshold`; "calibrate" skips nothing, but measures a table.
    """

    kind: str
    threshold: float
    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in STEP_CACHES:
            raise ValueError(f'step cache "{self.kind}" is unknown; use one of {", ".join(STEP_CACHES)}')
        if not math.isfinite(self.threshold) or self.threshold < 0:
            raise ValueError(f"the step cache's threshold is {self.threshold}; use a finite number from 0 up")
        if self.kind == "mag" and (len(self.ratios) < 2 or not all(0 < one < math.inf for one in self.ratios)):
            raise ValueError(f"the step cache mag needs a table of at least two positive ratios, but has "
                             f"{list(self.ratios)}; measure one by a call with the step cache calibrate")


@dataclass(frozen=True)
class AccelerationOptions:
    """What makes sampling faster.

    attention_backend: one of diffusers' names; torch's own choice when None. compile: torch.compile of the
    transformer's block. context_parallel: processes that share each evaluation's tokens; branch_parallel: such groups
    that divide guidance's evaluations.
    """

    attention_backend: str | None = None
    compile: bool = False
    step_cache: StepCache | None = None
    context_parallel: int = 1
    branch_parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("context_parallel", "branch_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use at least 1")
        if self.attention_backend == "flex" and not self.compile:
            raise ValueError("attention backend flex holds every score in memory unless it is compiled; add compile")
        if self.step_cache is not None and self.step_cache.kind == "calibrate" and self.num_processes > 1:
            raise ValueError("the step cache calibrate measures whole evaluations, all of them; use one process")

    def __str__(self) -> str:
        told = {"attention": self.attention_backend, "compiled": self.compile,
                "step cache": self.step_cache and f"{self.step_cache.kind} {self.step_cache.threshold:g}",
                "processes": self.num_processes > 1 and f"{self.branch_parallel} x {self.context_parallel}"}
        return ", ".join(name if value is True else f"{name} {value}" for name, value in told.items() if value)

    @property
    def num_processes(self) -> int:
        """How many processes make a video."""
        return self.context_parallel * self.branch_parallel


def check(options: AccelerationOptions, transformer: Mapping[str, Any], device: str, dtype: str) -> None:
    """Raise ValueError for what can't work with a transformer of that config, on that device, in these processes.

    device: "cpu" or "cuda". dtype: such as "bfloat16". An attention backend is tried on a few numbers; nothing is
    loaded, but for kernels that the hub keeps.
    """
    heads, num_layers = transformer["num_attention_heads"], transformer["num_layers"]
    if heads % options.context_parallel:
        raise ValueError(f"context_parallel {options.context_parallel} does not divide the model's {heads} attention "
                         "heads; choose a divisor")
    if options.step_cache is not None and options.step_cache.kind == "first-block" and num_layers < 2:
        raise ValueError("the step cache first-block needs two blocks at least; this model has one")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != options.num_processes:
        raise ValueError(
            f"context_parallel {options.context_parallel} x branch_parallel {options.branch_parallel} takes "
            f"{options.num_processes} processes, but there {'is' if count == 1 else 'are'} {count}; start them with "
            f"torchrun --nproc-per-node {options.num_processes} -m alchemint generate, and the options to it")
    if options.attention_backend is not None:
        _check_backend(options.attention_backend, device, dtype, transformer["attention_head_dim"])


def _check_backend(name: str, device: str, dtype: str, head_dim: int) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    names = [backend.value for backend in AttentionBackendName]
    fault = _fault(name, device, dtype, head_dim) if name in names else "there is none of this name"
    if fault:
        # Kernels of the hub would have to be fetched to be tried, and flex compiled.
        usable = [other for other in names if not other.endswith(("_hub", "flex"))
                  and not _fault(other, device, dtype, head_dim)]
        raise ValueError(f'attention backend "{name}" does not run here ({fault.rstrip(".")}); on {device} in {dtype} '
                         f"use one of {', '.join(usable)}")


def _fault(name: str, device: str, dtype: str, head_dim: int) -> str:
    """Return why an attention backend does not run, in a line, or nothing when it does."""
    import torch
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _check_attention_backend_requirements,
        _maybe_download_kernel_for_backend,
        dispatch_attention_fn,
    )

    backend = AttentionBackendName(name)
    query, key, value = torch.randn(3, 1, 16, 2, head_dim, device=device, dtype=getattr(torch, dtype)).unbind()
    try:
        _check_attention_backend_requirements(backend)
        _maybe_download_kernel_for_backend(backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that flex is slow when it is not compiled
            dispatch_attention_fn(query, key, value, backend=backend)
    # Whatever a foreign kernel raises means that it can't be used.
    except Exception as error:
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return ""


def accelerate(pipeline: "AlchemintPipeline", options: AccelerationOptions) -> None:
    """Set what `options` say on a loaded pipeline, once, before anything that offloads.

    With several processes torch.distributed has to be joined (`processes`). Raises ValueError where that can't be.
    """
    for transformer in pipeline.transformers:
        if options.attention_backend is not None:
            transformer.set_attention_backend(options.attention_backend)
        if options.compile:
            _compile(transformer)
        if options.step_cache is not None:
            transformer.enable_cache(_config_of(options.step_cache))
    pipeline.parallelise(options.context_parallel, options.branch_parallel)


def _compile(transformer: "AlchemintTransformer3DModel") -> None:
    """Compile the forward of every block itself: `compile_repeated_blocks` compiles the hooks around it, too."""
    import torch

    # The same code serves blocks with and without references, events, one or several branches, and their encoding.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILATIONS)
    for block in transformer.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True)


def _config_of(cache: StepCache) -> "FirstBlockCacheConfig | MagCacheConfig":
    from diffusers import FirstBlockCacheConfig, MagCacheConfig

    if cache.kind == "first-block":
        return FirstBlockCacheConfig(threshold=cache.threshold)
    if cache.kind == "calibrate":
        return MagCacheConfig(calibrate=True)
    # At its own length the table stays as it is; it is stretched to a call's steps where they are told (`step_caches`).
    return MagCacheConfig(threshold=cache.threshold, mag_ratios=list(cache.ratios),
                          num_inference_steps=len(cache.ratios))


def calibrated(pipeline: "AlchemintPipeline") -> tuple[float, ...]:
    """Return the table of ratios that calls have measured with the step cache "calibrate"."""
    from alchemint.model import step_caches

    return tuple(step_caches.measured_ratios(pipeline.transformers))


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, by NCCL or gloo, unless they are joined already; leave them at the end.

    On cuda each takes the device of its LOCAL_RANK. A process that fails does not take leave, which might wait for the
    others: torchrun sees it end, and ends them. One that has waited for 10 minutes gives up.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    join(device == "cuda", _TIMEOUT)
    yield
    distributed.destroy_process_group()
