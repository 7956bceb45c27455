"""The names of devices and dtypes -> torch's own, and what "auto" means on this machine."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from sda_engine.errors import ConfigError

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of processors


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
    return torch.bfloat16 if _native_bfloat16(device) else torch.float32


def explain_dtype(dtype: str, device: torch.device | None) -> str:
    """Why `resolve_dtype` gives what it gives."""
    if dtype != "auto":
        return "asked for"
    features = ", ".join(_native_bfloat16(device))
    return f"native bfloat16 ({features})" if features else "no native bfloat16, which would be slower"


def processor_features() -> Mapping[str, object]:
    """What torch knows of the processor, e.g. "avx2": True; older versions of torch do not tell."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities


def _native_bfloat16(device: torch.device | None) -> list[str]:
    """By what a device computes in bfloat16 natively; nothing where it does not."""
    if device is not None and device.type == "cpu":
        capabilities = processor_features()
        return [name for name in BFLOAT16_FEATURES if capabilities.get(name) is True]
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return [torch.cuda.get_device_name(device)]
    return []
