"""Caches of transformers as values: a pass works on a copy of one, and those of several rows are joined into one.

transformers' own caches change as a pass goes on, and cannot be joined. Most of their layers put a new tensor in place
of the old one, so that a copy can share the tensors; layers of a recurrent kind write into theirs.
"""

from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

# The older transformers of vLLM's environment, where this is imported and never used, has none
_StatelessLayer: type = getattr(cache_utils, "DummyLayer", type(None))

_JOINED = {
    _StatelessLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
}
_STATES = ("conv_states", "recurrent_states")
_ALONG_TOKENS = {"keys": (0, -2), "values": (0, -2), "indexer_keys": (0, -2), "indexer_position_ids": (1, -1)}

_T = TypeVar("_T")


@dataclass(frozen=True)
class CacheOfRow:
    """The part of a cache that belongs to one row.

    Attributes:
        cache: of one row or more, as a model made it.
        index: the row's place in it.
        length: tokens of the row; what is in the cache before these is padding.
    """

    cache: object
    index: int
    length: int


def copied(cache: _T, *, deep: bool) -> _T:
    """A copy for a pass to work on.

    Args:
        cache: as a model made it.
        deep: whether the model is known to write into tensors of more layers than those of a recurrent kind.
    """
    layers = getattr(cache, "layers", None)
    if deep or not isinstance(layers, list):
        return deepcopy(cache)
    twin = _twin(cache)
    twin.layers = [_twin(layer) for layer in layers]  # type: ignore[attr-defined]  # it has some
    return twin


def can_be_joined(cache: object) -> bool:
    """Whether `joined` knows all its layers."""
    return type(cache) is DynamicCache and all(type(layer) in _JOINED for layer in cache.layers)


def joined(parts: Sequence[CacheOfRow]) -> DynamicCache:
    """A cache of several rows in memory of its own: what is kept for each token is padded on the left with zeros.

    Args:
        parts: of caches that `can_be_joined`.
    """
    caches = [part.cache for part in parts if isinstance(part.cache, DynamicCache)]
    whole = _twin(caches[0])
    whole.layers = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        layer = _twin(layers[0])
        for name in _STATES:
            for key in getattr(layer, name, {}):
                states = [getattr(one, name)[key] for one in layers]
                if states[0] is not None:
                    taken = [state[part.index : part.index + 1] for state, part in zip(states, parts, strict=True)]
                    getattr(layer, name)[key] = torch.cat(taken)
        for name, (rows, tokens) in _ALONG_TOKENS.items():
            if getattr(layer, name, None) is not None:
                held = [getattr(one, name) for one in layers]
                taken = [_of_row(one, part, rows, tokens) for one, part in zip(held, parts, strict=True)]
                longest = max(one.shape[tokens] for one in taken)
                setattr(layer, name, torch.cat([_padded(one, longest, tokens) for one in taken], rows))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = max(part.length for part in parts)
        whole.layers.append(layer)
    return whole


def holds_tokens(cache: object) -> bool:
    """Whether something in it grows by the token, so that rows of different lengths need padding."""
    layers = getattr(cache, "layers", None)
    return not isinstance(layers, list) or not all(
        type(layer) in {LinearAttentionLayer, _StatelessLayer} for layer in layers
    )


def nbytes(cache: object) -> int:
    """Bytes of all that is in it."""
    return sum({id(tensor): tensor.nbytes for tensor in _tensors(cache)}.values())


def let_go(cache: object) -> None:
    """Empty a copy on which a pass has failed, which frames of the error still hold."""
    for layer in getattr(cache, "layers", ()):
        vars(layer).clear()
    vars(cache).clear()


def _twin(thing: _T) -> _T:
    """A copy that shares the tensors, but for those that are written into."""
    twin = copy(thing)
    for name, value in vars(thing).items():
        if isinstance(value, (dict, list)):
            setattr(twin, name, copy(value))
    if isinstance(twin, LinearAttentionCacheLayerMixin):
        for name in _STATES:
            held = {key: None if state is None else state.clone() for key, state in getattr(twin, name).items()}
            setattr(twin, name, held)
    return twin


def _of_row(held: Tensor, part: CacheOfRow, rows: int, tokens: int) -> Tensor:
    """What a row has of something that is kept for each token, or for the last ones alone."""
    kept = min(part.length, held.shape[tokens])
    return held.narrow(rows, part.index, 1).narrow(tokens, held.shape[tokens] - kept, kept)


def _padded(held: Tensor, longest: int, tokens: int) -> Tensor:
    return pad(held, [0, 0] * (-tokens - 1) + [longest - held.shape[tokens], 0])


def _tensors(thing: object) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for part in thing.values():
            yield from _tensors(part)
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from _tensors(part)
    elif isinstance(thing, (Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin)):
        yield from _tensors(vars(thing))
