"""Joining the processes that torchrun started, for training and for making one video together."""

import os
from datetime import timedelta


def join(on_gpu: bool, timeout: timedelta | None = None) -> None:
    """Join them by NCCL or gloo; on GPUs each takes the device of its LOCAL_RANK.

    timeout: how long one waits for the others; torch's own when None. Raises ValueError where there are too few GPUs.
    """
    import torch
    from torch import distributed

    if on_gpu:
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise ValueError(f"there are more processes here than GPUs ({count}); start torchrun with "
                             f"--nproc-per-node {count} at most")
        torch.cuda.set_device(number)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
