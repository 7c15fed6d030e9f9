"""On which device a run trains, and in which precision: bfloat16 matrix products, float32 weights and moments."""

import torch

from alchemint.training.recipe import Run


def pick_device(run: Run) -> torch.device:
    """Return the device a run trains on."""
    if run.device != "auto":
        return torch.device(run.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bfloat16(device: torch.device, run: Run) -> bool:
    """Tell whether matrix products are taken in bfloat16."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")


def autocast(device: torch.device, run: Run) -> torch.autocast:
    """Return the mixed-precision context of a run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, run))
