"""The precision that steering and drawing compute in, and the shapes of parameters."""

import torch
from torch import Tensor

_PARTS = 64  # of a row, whose sums are added up
_WITHOUT_FLOAT64 = ("mps",)  # kinds of devices


def widest(device: torch.device) -> torch.dtype:
    """float64; float32 on a device that has no float64, which is Apple's GPU. Both hold any token id exactly."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def in_widest(values: Tensor) -> Tensor:
    """Values in the widest type of their device."""
    return values.to(widest(values.device))


def can_look(values: Tensor) -> bool:
    """Whether a value can be looked at for nothing, as on a CPU. Elsewhere everything would wait for the device."""
    return values.device.type == "cpu"


def at_least_float32(values: Tensor) -> Tensor:
    """Values in float32 where they are of a half-precision type, else as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def as_vector(value: float | Tensor, like: Tensor) -> Tensor:
    """A (batch,) tensor of a parameter, in the dtype and on the device of `like`, whose first axis is the batch."""
    if isinstance(value, Tensor) and value.dtype == like.dtype and value.shape == like.shape[:1]:
        return value.to(like.device)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(like.shape[0])


def per_row(value: float | Tensor, like: Tensor) -> Tensor:
    """A (batch, 1) tensor of a parameter, to multiply (batch, vocab) with."""
    return as_vector(value, like).unsqueeze(-1)


def row_sums(values: Tensor) -> Tensor:
    """(batch,): the sum of each row, (batch, vocab), to the bit what it is in a batch of any other size.

    torch shares a single long sum out between threads, and several not, so each row is summed up in parts first.
    """
    vocab = values.shape[-1]
    rest = vocab % _PARTS if vocab >= _PARTS else vocab
    if rest == vocab:
        return values.sum(dim=-1)
    sums = values[:, : vocab - rest].reshape(len(values), _PARTS, -1).sum(dim=-1).sum(dim=-1)
    return sums + values[:, vocab - rest :].sum(dim=-1) if rest else sums
