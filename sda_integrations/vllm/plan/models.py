"""What a plan has to know of a model: its sizes, typed in for well-known ones, so that nothing is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Experts:
    """The expert layers of a mixture of experts.

    Attributes:
        parameters: of all experts of all layers.
        count: experts of a layer.
        per_token: of these that read one token.
    """

    parameters: int
    count: int
    per_token: int


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a decoder.

    Attributes:
        name: what the user called it.
        parameters: all of them, experts and embeddings included, tied ones once.
        table: those of one table of embeddings: words of the vocabulary times numbers of each.
        tied: whether one table serves for input and output.
        query_heads: heads of a layer.
        kv_heads: heads whose keys and values are stored.
        head_dim: of a key and of a value; of the one latent vector where the model has latent attention.
        windows: of each kind of attention, tokens of its sliding window (None: it attends to all) and its layers.
        context: tokens of the context window.
        latent: whether keys and values are one latent vector per token and layer (multi-head latent attention).
        experts: None in a dense model.
        quantization: how the weights are stored in the files, as the configuration calls it; None where they are not.
    """

    name: str
    parameters: int
    table: int
    tied: bool
    query_heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[tuple[int | None, int], ...]
    context: int
    latent: bool = False
    experts: Experts | None = None
    quantization: str | None = None

    @property
    def layers(self) -> int:
        """Layers that store keys and values."""
        return sum(count for _, count in self.windows)

    @property
    def embeddings(self) -> int:
        """Parameters of input and output embeddings, which quantization leaves alone."""
        return self.table if self.tied else 2 * self.table

    @property
    def multiplied(self) -> int:
        """Parameters that a step reads and multiplies with: of input embeddings it looks up a few alone."""
        return self.parameters if self.tied else self.parameters - self.table


_K = 1024
_TIED = ("smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-0.5b", "gemma-2-9b")

# Parameters, words and width of the embeddings, heads of queries and of keys and their size, layers, context window
_SIZES: Mapping[str, tuple[int, int, int, int, int, int, int, int]] = {
    "smollm2-135m": (134_515_008, 49_152, 576, 9, 3, 64, 30, 8 * _K),
    "llama-3.2-1b": (1_235_814_400, 128_256, 2048, 32, 8, 64, 16, 128 * _K),
    "llama-3.2-3b": (3_212_749_824, 128_256, 3072, 24, 8, 128, 28, 128 * _K),
    "llama-3.1-8b": (8_030_261_248, 128_256, 4096, 32, 8, 128, 32, 128 * _K),
    "llama-3.3-70b": (70_553_706_496, 128_256, 8192, 64, 8, 128, 80, 128 * _K),
    "mistral-7b": (7_248_023_552, 32_768, 4096, 32, 8, 128, 32, 32 * _K),
    "qwen2.5-0.5b": (494_032_768, 151_936, 896, 14, 2, 64, 24, 32 * _K),
    "qwen2.5-7b": (7_615_616_512, 152_064, 3584, 28, 4, 128, 28, 32 * _K),
    "qwen2.5-72b": (72_706_203_648, 152_064, 8192, 64, 8, 128, 80, 32 * _K),
    "qwen3-8b": (8_190_735_360, 151_936, 4096, 32, 8, 128, 36, 40 * _K),
    "gemma-2-9b": (9_241_705_984, 256_000, 3584, 16, 8, 256, 42, 8 * _K),
    "mixtral-8x7b": (46_702_792_704, 32_000, 4096, 32, 8, 128, 32, 32 * _K),
    "qwen3-30b-a3b": (30_532_122_624, 151_936, 2048, 32, 4, 128, 48, 40 * _K),
}
_EXPERTS: Mapping[str, Experts] = {
    "mixtral-8x7b": Experts(45_097_156_608, count=8, per_token=2),
    "qwen3-30b-a3b": Experts(28_991_029_248, count=128, per_token=8),
}
_WINDOWS: Mapping[str, tuple[tuple[int | None, int], ...]] = {"gemma-2-9b": ((4096, 21), (None, 21))}


def _preset(name: str) -> ModelSizes:
    parameters, words, width, query_heads, kv_heads, head_dim, layers, context = _SIZES[name]
    return ModelSizes(
        name=name,
        parameters=parameters,
        table=words * width,
        tied=name in _TIED,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        windows=_WINDOWS.get(name, ((None, layers),)),
        context=context,
        experts=_EXPERTS.get(name),
    )


PRESETS: Mapping[str, ModelSizes] = MappingProxyType({name: _preset(name) for name in _SIZES})
"""Models by name, with the numbers of their public configurations."""
