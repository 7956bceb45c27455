"""Recurrent and convolutional layers in a forward pass over rows: each row with states of its own.

All tokens of a pass stand behind one another in one sequence. A layer that carries a state from token to token must not
carry it from row to row, so during a pass of ours its mixer is called for each row alone. Rows that hold tokens already
and add equally many, as all rows do that decode, go through it as one batch.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionLayer

from sda_engine.decoding.segments import Segment
from sda_engine.decoding.states import MixerState, StateBatch, copied_states, fresh_layer
from sda_engine.models import StandIn

_CACHE_NAMES = ("cache_params", "past_key_values")


@dataclass(frozen=True)
class _Mixer:
    """A module that carries states.

    Attributes:
        parameters: names of what it is called with, in order.
        cache: the one of them that the states come in.
    """

    module: nn.Module
    parameters: tuple[str, ...]
    cache: str


@dataclass(frozen=True)
class _Part:
    """Segments that go through the mixers as one batch.

    Attributes:
        tokens: (segments * tokens of each,) their places in the pass.
    """

    segments: Sequence[Segment]
    tokens: Tensor
    cache: DynamicCache
    layers: Mapping[int, LinearAttentionLayer]


class Mixers:
    """The mixers of a model.

    Args:
        model: the model, which stays as it is outside of passes.
        layers: which of its layers carry states.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)
        self._mixers: Sequence[_Mixer] = ()
        if layers:
            self._empty = DynamicCache(config=model.config.get_text_config(decoder=True))
            self._mixers = _innermost([mixer for module in model.modules() if (mixer := _mixer(module, self._layers))])

    @contextmanager
    def by_rows(self, segments: Sequence[Segment]) -> Iterator[Callable[[], None]]:
        """Within the block, a pass in this thread goes through the mixers by rows.

        Yields:
            What gives the rows their new states, to be called once the pass has succeeded.
        """
        parts = self._parts(segments) if self._mixers else []
        usual = [vars(mixer.module).get("forward") for mixer in self._mixers]
        for mixer, kept in zip(self._mixers, usual, strict=True):
            by_rows = partial(_forward, mixer, parts, mixer.module.forward, threading.get_ident())
            mixer.module.forward = StandIn(by_rows, kept)
        try:
            yield partial(_commit, parts)
        except BaseException:
            parts.clear()  # frames of an error, which may be kept, hold the list, and it shall hold no rows then
            raise
        finally:
            for mixer, forward in zip(self._mixers, usual, strict=True):
                del mixer.module.forward
                if forward is not None:  # somebody's hook
                    mixer.module.forward = forward

    def _parts(self, segments: Sequence[Segment]) -> list[_Part]:
        alike: dict[object, list[tuple[Segment, int]]] = {}
        start = 0
        for place, segment in enumerate(segments):
            kind = place if segment.row.state is None else ("go on", len(segment.token_ids))
            alike.setdefault(kind, []).append((segment, start))
            start += len(segment.token_ids)
        return [self._part(*zip(*members, strict=True)) for members in alike.values()]

    def _part(self, segments: tuple[Segment, ...], starts: tuple[int, ...]) -> _Part:
        count = len(segments[0].token_ids)
        states = [state for segment in segments if isinstance(state := segment.row.state, MixerState)]
        layers = copied_states(states) if states else self._fresh()
        cache = copy(self._empty)
        cache.layers = [layers.get(number, layer) for number, layer in enumerate(cache.layers)]
        tokens = torch.tensor([number for start in starts for number in range(start, start + count)])
        return _Part(segments, tokens, cache, layers)

    def _fresh(self) -> dict[int, LinearAttentionLayer]:
        return {number: fresh_layer(cast(LinearAttentionLayer, self._empty.layers[number])) for number in self._layers}


def _forward(
    mixer: _Mixer,
    parts: Sequence[_Part],
    usual: Callable[..., Tensor],
    thread: int,
    hidden_states: Tensor,
    *unnamed: object,
    **options: object,
) -> Tensor:
    """What a mixer does in place of its own forward: (1, tokens of the pass, size) in, the same out."""
    if threading.get_ident() != thread:
        return usual(hidden_states, *unnamed, **options)
    options |= dict(zip(mixer.parameters[1:], unnamed, strict=False))
    kept = {
        name: value for name, value in options.items() if name not in (mixer.cache, "attention_mask", "forward_pass")
    }
    if "attention_mask" in mixer.parameters:
        kept["attention_mask"] = None
    output: Tensor | None = None
    for part in parts:
        tokens = part.tokens.to(hidden_states.device)
        # (rows, tokens of each, size)
        rows = hidden_states[0, tokens].view(len(part.segments), -1, hidden_states.shape[-1])
        mixed = usual(rows, **{mixer.cache: part.cache}, **kept).flatten(0, 1)
        output = mixed.new_empty((hidden_states.shape[1], mixed.shape[-1])) if output is None else output
        output[tokens.to(mixed.device)] = mixed
    assert output is not None, "a pass has segments"
    return output.unsqueeze(0)


def _commit(parts: Sequence[_Part]) -> None:
    for part in parts:
        batch = StateBatch(part.layers, len(part.segments))
        for index, segment in enumerate(part.segments):
            memory = segment.row.memory
            segment.row.state = MixerState(batch, index, memory.ledger, memory.state_cost.fixed)


def _mixer(module: nn.Module, layers: Sequence[int]) -> _Mixer | None:
    """The module as a mixer; None where it is none of these layers'."""
    if getattr(module, "layer_idx", None) not in layers or hasattr(module, "is_causal"):  # the latter attends
        return None
    parameters = tuple(inspect.signature(type(module).forward).parameters)[1:]
    cache = next((name for name in _CACHE_NAMES if name in parameters), None)
    return None if cache is None else _Mixer(module, parameters, cache)


def _innermost(mixers: Sequence[_Mixer]) -> list[_Mixer]:
    """Those that hold no other one: a layer knows its number too."""
    modules = {mixer.module for mixer in mixers}
    return [mixer for mixer in mixers if modules.isdisjoint(set(mixer.module.modules()) - {mixer.module})]
