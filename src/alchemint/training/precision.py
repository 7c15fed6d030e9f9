"""On which device a run trains, and in which precision: bfloat16 matrix products, float32 weights and moments."""

import os
import time

import torch

from alchemint.training.recipe import Run


def pick_device(run: Run) -> torch.device:
    """Return the device a run trains on; of several processes (`ranks`), each has a GPU of its own."""
    if run.device == "cpu" or not (run.device == "cuda" or torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def uses_bfloat16(device: torch.device, run: Run) -> bool:
    """Tell whether matrix products are taken in bfloat16."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")


def autocast(device: torch.device, run: Run) -> torch.autocast:
    """Return the mixed-precision context of a run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, run))


def matmul_dtype(device: torch.device, run: Run) -> torch.dtype:
    """Return the precision of a run's matrix products."""
    return torch.bfloat16 if uses_bfloat16(device, run) else torch.float32


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Return how many floating-point operations a second this device reaches in matrix products of a precision.

    Measured for about `seconds`, on matrices large enough to fill the device.
    """
    size = 8192 if device.type == "cuda" else 1024
    one = torch.randn(size, size, device=device, dtype=dtype)
    two = torch.randn(size, size, device=device, dtype=dtype)

    def timed(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            torch.matmul(one, two)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    timed(1)
    count = max(1, round(seconds / max(timed(1), 1e-6)))
    return count * 2 * size**3 / timed(count)
