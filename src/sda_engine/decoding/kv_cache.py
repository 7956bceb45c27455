"""Key-value caches of single rows, and the cache of a batch of rows made from them.

A row is prefilled alone, so its cache holds exactly what a request of its own would hold, sliding windows
included. To decode together, the caches of several rows are padded on the left to one length; the attention mask
hides the padding. transformers' dynamic layers never write in place, so a fork of a cache shares its tensors.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sda_engine.errors import ModelLoadError

_SUPPORTED = (DynamicLayer, DynamicSlidingWindowLayer)


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model."""
    return DynamicCache(config=config)


def check_cache_support(config: PreTrainedConfig) -> None:
    """Refuse a model whose cache cannot be padded and merged.

    Raises:
        ModelLoadError: the model keeps recurrent or otherwise special states.
    """
    for layer in new_cache(config).layers:
        if type(layer) not in _SUPPORTED:
            raise ModelLoadError(
                f"Models of type {config.model_type!r} keep their past in {type(layer).__name__}, and the engine can "
                f"merge only full and sliding-window attention. Load a model with attention layers alone."
            )


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache that goes on from the same past independently; no tensor is copied."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    return forked


def can_rewind(config: PreTrainedConfig) -> bool:
    """Whether a model's cache can go back to an earlier token; sliding windows have dropped what they would need."""
    return all(type(layer) is DynamicLayer for layer in new_cache(config).layers)


def rewound(cache: DynamicCache, tokens: int) -> DynamicCache:
    """A fork of a cache without its last tokens; no tensor is copied."""
    earlier = fork(cache)
    earlier.crop(-tokens)
    return earlier


def merge(caches: Sequence[DynamicCache], lengths: Sequence[int]) -> DynamicCache:
    """One cache for a batch of rows, each padded on the left to the longest.

    Args:
        caches: one cache per row, each of batch size 1.
        lengths: tokens in each of them.

    Returns:
        A cache of batch size len(caches) and max(lengths) tokens; the given ones are left as they are.
    """
    longest = caches[max(range(len(caches)), key=lengths.__getitem__)]
    if len(caches) == 1:
        return fork(longest)
    merged = fork(longest)  # the layers' counters are those of the longest row
    for place, layer in enumerate(merged.layers):
        rows = [cast(DynamicLayer, cache.layers[place]) for cache in caches]
        layer = cast(DynamicLayer, layer)
        layer.keys = _stack([row.keys for row in rows])
        layer.values = _stack([row.values for row in rows])
    return merged


def _stack(states: Sequence[Tensor | None]) -> Tensor:
    """(1, heads, tokens, size) of each row to (rows, heads, longest, size), padded on the left with zeros."""
    filled = [state for state in states if state is not None]
    length = max(state.shape[-2] for state in filled)
    stacked = filled[0].new_zeros((len(filled), filled[0].shape[1], length, filled[0].shape[3]))
    for place, state in enumerate(filled):
        stacked[place, :, length - state.shape[-2] :] = state[0]
    return stacked


def left_padding_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(rows, max(lengths)) attention mask of a merged cache: 0 on the padding, 1 on tokens."""
    longest = max(lengths)
    slots = torch.arange(longest, device=device)
    padding = longest - torch.tensor(lengths, device=device)
    return (slots >= padding.unsqueeze(-1)).long()
