"""Who tells one set of weights in memory from another: a name that changes with them."""

import weakref
from threading import Lock
from uuid import uuid4

from torch import Tensor, nn

_Versions = list[tuple[weakref.ref[Tensor], int]]


class WeightsIdentity:
    """A name for a model's weights that no other model has, in this process or another.

    It is a new one after weights were written (`load_state_dict`, training) or others put in their place (adapters).
    Weights that are written through `weight.data`, and adapters that are only switched on or off, are not noticed.

    Args:
        model: the model.
        can_be_loaded: whether its settings tell all about the weights, until they change: then they have no name.
    """

    def __init__(self, model: nn.Module, *, can_be_loaded: bool) -> None:
        self._model = model
        self._lock = Lock()
        self._versions = _versions(model)
        self._name = None if can_be_loaded else uuid4().hex

    @property
    def name(self) -> str | None:
        """Thirty-two hexadecimal digits; None for weights that are as they were loaded."""
        with self._lock:
            if not _same(self._versions, now := _versions(self._model)):
                self._versions, self._name = now, uuid4().hex
            return self._name


def _versions(model: nn.Module) -> _Versions:
    return [(weakref.ref(weight), 0 if weight.is_inference() else weight._version) for weight in model.parameters()]


def _same(before: _Versions, now: _Versions) -> bool:
    # Dead references differ from all others, so weights that were exchanged never look the same
    return len(before) == len(now) and all(
        old() is new() and version == written for (old, version), (new, written) in zip(before, now, strict=True)
    )
