"""Several processes that train one model (data parallel): each takes its share of every batch, gradients are averaged.

`torchrun --nproc-per-node 2 -m alchemint train RECIPE` starts them; without torchrun there is one process, and all of
this does nothing. On a CPU, two processes of one thread each train faster than one process with two threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, by NCCL or gloo, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share() -> tuple[int, int]:
    """Return the number of this process and how many there are: (0, 1) alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Tell whether this process is the one that writes files and logs."""
    return share()[0] == 0


def wait() -> None:
    """Wait until all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


def share_of(batch_size: int) -> int:
    """Return how much of a batch is this process's.

    Raises ValueError when the batch can't be divided.
    """
    _, count = share()
    if batch_size % count:
        raise ValueError(f"run.batch_size {batch_size} can't be divided among {count} processes; choose a multiple")
    return batch_size // count


def average_gradients(parameters: list[nn.Parameter], wish: bool) -> bool:
    """Average the gradients over the processes, in place; return whether any of them has the `wish`.

    All goes in one message. A parameter without a gradient counts as zero, unless it has none anywhere.
    """
    if not dist.is_initialized():
        return wish
    device = parameters[0].device
    notes = torch.tensor([float(wish), *(float(parameter.grad is not None) for parameter in parameters)], device=device)
    gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    message = torch.cat([notes, *(gradient.float().flatten() for gradient in gradients)])
    dist.all_reduce(message)
    wishes, *present = message[:len(notes)].tolist()
    means = (message[len(notes):] / dist.get_world_size()).split([parameter.numel() for parameter in parameters])
    for parameter, mean, held in zip(parameters, means, present, strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype) if held else None
    return wishes > 0
