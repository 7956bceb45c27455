"""How much of the machine the keys and values may take, in tokens."""

import torch

from sda_engine.models import available_memory

_SHARE = 0.5  # of the free memory; the rest is for activations, logits and everybody else


def default_cache_tokens(device: torch.device, bytes_per_token: int) -> int:
    """Tokens whose keys and values fit in half of the memory that is free now on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = available_memory()
    return max(1, cache_bytes(free) // bytes_per_token)


def cache_bytes(free: int) -> int:
    """Bytes that keys and values may take where so many are free."""
    return int(_SHARE * free)
