"""Bytes of weights and of cached numbers, by vLLM's names."""

from collections.abc import Mapping
from types import MappingProxyType

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.models import ModelSizes

DTYPES: Mapping[str, int] = MappingProxyType(
    {"auto": 2, "bfloat16": 2, "half": 2, "float16": 2, "float": 4, "float32": 4}
)
_CACHE: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1})

# Bytes of a weight, scales included: groups of 128 with a scale and a zero of 16 and 4 bits; of 64 with one of 32
_FOUR_BITS = (4 + 20 / 128) / 8
QUANTIZATIONS: Mapping[str, float] = MappingProxyType(
    {
        "fp8": 1.0,
        "awq": _FOUR_BITS,
        "awq_marlin": _FOUR_BITS,
        "gptq": _FOUR_BITS,
        "gptq_marlin": _FOUR_BITS,
        "bitsandbytes": (4 + 32 / 64) / 8,
    }
)


def dtype_bytes(dtype: str) -> int:
    """Bytes of an unquantized weight.

    Raises:
        ConfigError: vLLM has no such dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def cache_bytes(kv_cache_dtype: str, dtype: str) -> int:
    """Bytes of a cached number; "auto" is the model's dtype.

    Raises:
        ConfigError: the plan does not know such a cache.
    """
    if kv_cache_dtype == "auto":
        return dtype_bytes(dtype)
    if kv_cache_dtype not in _CACHE:
        raise ConfigError(f"--kv-cache-dtype is {kv_cache_dtype!r}: a plan knows auto, {', '.join(_CACHE)}.")
    return _CACHE[kv_cache_dtype]


def weight_bytes(sizes: ModelSizes, dtype: str, quantization: str | None, given: float | None) -> float:
    """Bytes of a quantizable weight: as given, by the quantization that was asked for or that the files have, or plain.

    Raises:
        ConfigError: the quantization has no known size, and none is given.
    """
    if given is not None:
        if not 0 < given <= 4:
            raise ConfigError(f"--weight-bytes is {given:g}: it must be above 0 and at most 4 (float32).")
        return given
    name = quantization or sizes.quantization
    if name is None:
        return dtype_bytes(dtype)
    if name not in QUANTIZATIONS:
        raise ConfigError(
            f"How many bytes a weight takes under the quantization {name!r} is not known to the plan, which knows "
            f"{', '.join(QUANTIZATIONS)}. Give --weight-bytes, 0.52 for four bits, say."
        )
    return QUANTIZATIONS[name]
