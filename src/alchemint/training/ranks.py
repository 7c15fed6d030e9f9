"""The processes that train one model together, as `torchrun` starts them; without it there is one.

They divide the work in two ways. Neighbouring processes, `context_size` of them, work on the same samples, each on
its share of the tokens (`model.context_parallel`); such groups each take their share of every batch (data parallel).
The weights lie whole in every process, or in shards over `num_shards` of them (`sharding`).

On a CPU, two processes of one thread each train faster than one process with two threads.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from alchemint.processes import join
from alchemint.training.recipe import Run


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and how they divide the work."""

    number: int = 0
    count: int = 1
    context_size: int = 1
    num_shards: int = 1

    @property
    def share(self) -> tuple[int, int]:
        """Return which part of every batch is this process's, and how many parts there are."""
        return self.number // self.context_size, self.count // self.context_size

    @property
    def is_first(self) -> bool:
        """Tell whether this process is the one that writes files and logs."""
        return self.number == 0

    @property
    def is_sharded(self) -> bool:
        """Tell whether this process holds but a part of the weights."""
        return self.num_shards > 1

    @property
    def work_as_one(self) -> bool:
        """Tell whether a forward pass needs all processes."""
        return self.is_sharded or self.context_size > 1

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of `values` over the processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
            values = values / self.count
        return values

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of whole weights over the processes, in place; shards are averaged by FSDP.

        All goes in one message. A parameter without a gradient counts as zero, unless it has none anywhere.
        """
        if self.count == 1 or self.is_sharded:
            return
        present = torch.tensor([float(parameter.grad is not None) for parameter in parameters],
                               device=parameters[0].device)
        gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                     for parameter in parameters]
        message = torch.cat([present, *(gradient.float().flatten() for gradient in gradients)])
        dist.all_reduce(message)
        means = (message[len(present):] / self.count).split([parameter.numel() for parameter in parameters])
        for parameter, mean, held in zip(parameters, means, message[:len(present)].tolist(), strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if held else None


ALONE = Ranks()


@contextmanager
def joined(run: Run) -> Iterator[Ranks]:
    """Join the processes that torchrun started, by NCCL or gloo, and leave them at the end, unless they are joined
    already.

    Raises ValueError when the recipe's `run` can't be divided among so many.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    ranks = divide(run, int(os.environ.get("RANK", "0")), count)
    if count == 1 or dist.is_initialized():
        yield ranks
        return
    on_gpu = run.device != "cpu" and torch.cuda.is_available()
    join(on_gpu)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def divide(run: Run, number: int, count: int) -> Ranks:
    """Return the division of a run among `count` processes; ValueError, with the mend, when there is none."""
    num_shards = count if run.num_shards == "all" else run.num_shards
    for name, value in (("context_parallel", run.context_parallel), ("num_shards", num_shards)):
        if count % value:
            raise ValueError(f"run.{name} {value} does not divide the {count} processes; choose a divisor")
    parts = count // run.context_parallel * run.accumulate
    if run.batch_size % parts:
        raise ValueError(f"run.batch_size {run.batch_size} can't be divided into {parts} parts ({count} processes, "
                         f"context_parallel {run.context_parallel}, accumulate {run.accumulate}); choose a multiple")
    return Ranks(number, count, run.context_parallel, num_shards)
