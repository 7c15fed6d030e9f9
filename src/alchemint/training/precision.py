"""On which device a run trains, and in which precision: bfloat16 matrix products, float32 weights and moments."""

import os

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
