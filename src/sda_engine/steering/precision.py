"""The precision that steering and drawing compute in."""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = ("mps",)  # kinds of devices


def in_widest(values: Tensor) -> Tensor:
    """Values in float64; in float32 on a device that has no float64, which is Apple's GPU."""
    return values.to(torch.float32 if values.device.type in _WITHOUT_FLOAT64 else torch.float64)
