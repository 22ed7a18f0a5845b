"""The types that are computed in."""

import torch
from torch import Tensor


def compute_dtype(values: Tensor) -> torch.dtype:
    """Return float64 for float64 values, else float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def as_compute_dtype(values: Tensor) -> Tensor:
    """Return float64 as it is and every other floating type in float32."""
    return values.to(compute_dtype(values))


def precise(device: torch.device) -> torch.dtype:
    """Return the type for what must not lose its digits: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
