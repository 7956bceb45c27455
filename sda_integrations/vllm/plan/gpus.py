"""GPUs by name: how much they hold, and how fast they read and compute."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sda_engine.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: what users call it.
        memory: bytes that a program sees.
        bandwidth: bytes per second from its memory, as the data sheet says.
        flops: dense operations per second in bfloat16, as the data sheet says; None where it is not known.
        rows: sequences at once that vLLM runs by default (`--max-num-seqs`).
    """

    name: str
    memory: int
    bandwidth: float
    flops: float | None
    rows: int


def _gpu(name: str, gib: float, terabytes: float, teraflops: float) -> Gpu:
    return Gpu(name, round(gib * GIB), terabytes * 1e12, teraflops * 1e12, default_rows(name, round(gib * GIB)))


def default_rows(name: str, memory: int) -> int:
    """How many sequences `vllm serve` runs at once where nobody says: more on large GPUs, the A100 excepted."""
    return 1024 if memory >= 160 * GIB or (memory >= 70 * GIB and "a100" not in name) else 256


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            _gpu("h100", 79.2, 3.35, 989),  # SXM
            _gpu("h200", 139.8, 4.8, 989),
            _gpu("b200", 178.3, 8.0, 2250),
            _gpu("a100-80", 79.2, 2.039, 312),  # SXM
            _gpu("a100-40", 39.4, 1.555, 312),
            _gpu("l40s", 44.4, 0.864, 362),
            _gpu("l4", 22.0, 0.3, 121),
            _gpu("rtx-4090", 23.5, 1.008, 165),
            _gpu("mi300x", 191.9, 5.3, 1307),
        )
    }
)


def find_gpu(name: str | None, memory_gib: float | None, bandwidth_tb: float | None) -> Gpu:
    """A GPU of the table, with other figures where they are given; or one of given figures alone.

    Args:
        name: of the table; None for a GPU that is described by the other two.
        memory_gib: GiB that a program sees.
        bandwidth_tb: terabytes (1e12) per second.

    Raises:
        ConfigError: no GPU of that name, or too little is said of one.
    """
    for what, figure in (("--gpu-memory", memory_gib), ("--bandwidth", bandwidth_tb)):
        if figure is not None and not 0 < figure < float("inf"):
            raise ConfigError(f"{what} is {figure:g}: it must be above 0 (GiB, and TB per second).")
    if name is None:
        if memory_gib is None or bandwidth_tb is None:
            raise ConfigError(
                f"A plan needs a GPU: give --gpu, one of {', '.join(GPUS)}, or both --gpu-memory (GiB) and "
                f"--bandwidth (TB per second)."
            )
        memory = round(memory_gib * GIB)
        return Gpu("your GPU", memory, bandwidth_tb * 1e12, None, default_rows("", memory))
    known = GPUS.get(name.lower())
    if known is None:
        raise ConfigError(
            f"--gpu is {name!r}: it must be one of {', '.join(GPUS)}. Describe another by --gpu-memory (GiB) and "
            f"--bandwidth (TB per second)."
        )
    memory = known.memory if memory_gib is None else round(memory_gib * GIB)
    bandwidth = known.bandwidth if bandwidth_tb is None else bandwidth_tb * 1e12
    return Gpu(known.name, memory, bandwidth, known.flops, known.rows)
