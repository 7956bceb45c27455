"""The names of devices and dtypes -> torch's own, and what "auto" means on this machine."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from sda_engine.errors import ConfigError

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)


def resolve_device(device: str) -> torch.device:
    """The torch device that a setting means.

    Raises:
        ConfigError: there is no such device here.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={device!r} is not available here: use 'auto', 'cpu', or a device that this build of torch "
            f"can reach."
        ) from error
    return resolved


def with_index(device: torch.device) -> torch.device:
    """A device with its number, where its kind has several: "cuda" means the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def resolve_dtype(dtype: str, device: torch.device | None) -> torch.dtype:
    """The torch dtype that a setting means on a device.

    Raises:
        ConfigError: the name is unknown.
    """
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise ConfigError(f"dtype cannot be {dtype!r}: it must be 'auto' or one of {', '.join(DTYPES)}.")
    return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32


def _has_native_bfloat16(device: torch.device | None) -> bool:
    if device is not None and device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older versions of torch do not tell
        return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False
