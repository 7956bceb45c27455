"""What recurrent and convolutional layers hold of the tokens of rows: states of a fixed size, which cannot be cut back.

A state that is here does not change: a forward pass works on a copy, and what comes of it is a new one. So a pass that
fails leaves the rows as they were, and whoever keeps a state can go on from its place, however far others have gone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from sda_engine.decoding.blocks import Ledger

_STATES = ("conv_states", "recurrent_states")
_FLAGS = ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state", "conv_kernel_size")


@dataclass(frozen=True)
class StateCost:
    """What the state of a row takes, told in tokens of keys and values.

    Attributes:
        fixed: however many tokens the row has.
        per_token: and for each of them: 1 where the state holds the row's keys and values too, else 0.
    """

    fixed: int = 0
    per_token: int = 0

    def __bool__(self) -> bool:
        """Whether rows have states at all: such rows can be cut back only to where a state was kept."""
        return bool(self.fixed or self.per_token)

    def of(self, tokens: int) -> int:
        """What the state of a row of so many tokens takes."""
        return self.fixed + self.per_token * tokens


class RowState(ABC):
    """The state of one row after some tokens, counted for as long as it lives.

    Args:
        ledger: counts it.
        tokens: what it takes, told in tokens of keys and values.
    """

    def __init__(self, ledger: Ledger, tokens: int) -> None:
        self.tokens = tokens
        self._ledger = ledger
        ledger.add(tokens)

    def __del__(self) -> None:
        self._ledger.remove(self.tokens)

    @abstractmethod
    def alone(self) -> Self:
        """The same, in memory that holds no state of another row, and that no later pass changes."""


class StateBatch:
    """The states of rows that went through a pass as one batch.

    Args:
        layers: layer -> its states, rows along the first axis, which nobody changes from here on.
        rows: how many they are.
    """

    def __init__(self, layers: Mapping[int, LinearAttentionLayer], rows: int) -> None:
        self.layers = layers
        self.rows = rows

    @property
    def nbytes(self) -> int:
        """Bytes of the states of all rows."""
        return sum(state.nbytes for layer in self.layers.values() for state in _tensors(layer))


class MixerState(RowState):
    """What the recurrent and convolutional layers hold for one row.

    Args:
        batch, index: where it is.
    """

    def __init__(self, batch: StateBatch, index: int, ledger: Ledger, tokens: int) -> None:
        super().__init__(ledger, tokens)
        self.batch = batch
        self.index = index

    def alone(self) -> Self:
        """A copy, where there are other rows in its batch."""
        if self.batch.rows == 1:
            return self
        return type(self)(StateBatch(copied_states([self]), 1), 0, self._ledger, self.tokens)


def copied_states(states: Sequence[MixerState]) -> dict[int, LinearAttentionLayer]:
    """Layer -> copies of the states of several rows side by side, for a pass to work on."""
    batch = states[0].batch
    is_whole = [(state.batch, state.index) for state in states] == [(batch, index) for index in range(batch.rows)]
    return {number: _copied(number, states, is_whole=is_whole) for number in batch.layers}


def fresh_layer(layer: LinearAttentionLayer) -> LinearAttentionLayer:
    """A layer like another one, that has seen no token."""
    return LinearAttentionLayer(number_of_states=layer.number_of_states)


def _copied(number: int, states: Sequence[MixerState], *, is_whole: bool) -> LinearAttentionLayer:
    source = states[0].batch.layers[number]
    layer = copy(source)
    for name in _FLAGS:
        setattr(layer, name, dict(getattr(source, name)))
    for name in _STATES:
        held: dict[int, Tensor | None] = {}
        for key, tensor in getattr(source, name).items():
            if tensor is None or is_whole:
                held[key] = None if tensor is None else tensor.clone()
            else:
                parts = [(getattr(state.batch.layers[number], name)[key], state.index) for state in states]
                held[key] = torch.cat([part[index : index + 1] for part, index in parts])
        setattr(layer, name, held)
    return layer


def _tensors(layer: LinearAttentionLayer) -> list[Tensor]:
    return [tensor for name in _STATES for tensor in getattr(layer, name).values() if tensor is not None]
