"""Keys and values as vLLM stores them: layers in groups with block tables of their own, and blocks of one size."""

from dataclasses import dataclass
from math import ceil

from sda_integrations.vllm.plan.models import ModelSizes

_MUCH_LONGER = 1.5  # above it vLLM splits the layers of one kind rather than pad those of the other


@dataclass(frozen=True)
class CacheGroup:
    """Layers that share a block table.

    Attributes:
        window: tokens of their sliding window; None where they attend to all.
        tables: block tables of this kind: a sequence takes blocks for each.
    """

    window: int | None
    tables: int


@dataclass(frozen=True)
class CacheShape:
    """How one GPU of a model stores keys and values.

    Attributes:
        block_size: tokens of a block.
        block_bytes: of a block, on each GPU.
        token_bytes: of one token in all layers, on each GPU.
        groups: the kinds of layers.
    """

    block_size: int
    block_bytes: int
    token_bytes: int
    groups: tuple[CacheGroup, ...]


def kv_heads_per_gpu(sizes: ModelSizes, gpus: int) -> int:
    """Heads whose keys and values a GPU stores: a part of them, or one where there are fewer heads than GPUs."""
    return 1 if sizes.latent else max(1, sizes.kv_heads // gpus)


def layer_token_bytes(sizes: ModelSizes, value_bytes: int, gpus: int) -> int:
    """Bytes of one token in one layer on one GPU: a key and a value per head, or one latent vector."""
    vectors = 1 if sizes.latent else 2
    return vectors * kv_heads_per_gpu(sizes, gpus) * sizes.head_dim * value_bytes


def cache_shape(sizes: ModelSizes, value_bytes: int, gpus: int, block_size: int) -> CacheShape:
    """How vLLM would store keys and values.

    Layers of several kinds are cut into groups of equally many, since a block has one size: of as many as there are of
    the rarest kind, or, where the other is not half as many again, of all of it. What is missing is padding.

    Args:
        sizes: of the model.
        value_bytes: of one number in the cache.
        gpus: that share each layer (the tensor parallel size).
        block_size: tokens of a block.
    """
    per_layer = layer_token_bytes(sizes, value_bytes, gpus)
    counts = [count for _, count in sizes.windows]
    fewest, most = min(counts), max(counts)
    together = most if most < _MUCH_LONGER * fewest else fewest
    return CacheShape(
        block_size=block_size,
        block_bytes=together * block_size * per_layer,
        token_bytes=sizes.layers * per_layer,
        groups=tuple(CacheGroup(window, ceil(count / together)) for window, count in sizes.windows),
    )


def blocks_held(shape: CacheShape, tokens: int) -> int:
    """Blocks of one sequence of so many tokens; a sliding window lets go of those that it has passed."""
    return sum(
        group.tables * (ceil(tokens / shape.block_size) - _passed(shape, group, tokens)) for group in shape.groups
    )


def blocks_shared(shape: CacheShape, common: int, tokens: int) -> int:
    """Of these, the blocks that the sequence shares with others that begin with the same `common` tokens.

    Prefix caching shares full blocks alone, so `common` counts down to a multiple of the block size.
    """
    full = common // shape.block_size
    return sum(group.tables * max(0, full - _passed(shape, group, tokens)) for group in shape.groups)


def _passed(shape: CacheShape, group: CacheGroup, tokens: int) -> int:
    """Blocks at the beginning of which no token is in the window any more."""
    return 0 if group.window is None else max(0, tokens - group.window) // shape.block_size
