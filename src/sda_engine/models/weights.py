"""What tells the weights of a model that was made or changed in memory from all others."""

from uuid import uuid4

from torch import nn

from sda_engine.forks import make_lock
from sda_engine.models.model_watch import Change, ModelWatch


class WeightsIdentity:
    """A name for a model's weights that no other model has, in this process or another.

    It is a new one after the model changed in a way that ModelWatch notices: weights were written or replaced, adapters
    put on, taken off or switched.

    Args:
        model: the model.
        can_be_loaded: whether its settings tell all about the weights, until they change: then they have no name.
    """

    def __init__(self, model: nn.Module, *, can_be_loaded: bool) -> None:
        self._watch: ModelWatch | None = ModelWatch(model)
        self._lock = make_lock()
        self._name = None if can_be_loaded else uuid4().hex

    @property
    def name(self) -> str | None:
        """Thirty-two hexadecimal digits; None for weights that are as they were loaded."""
        with self._lock:
            if self._watch is not None and self._watch.look() is not Change.NOTHING:
                self._name = uuid4().hex
            return self._name

    def release(self) -> None:
        """Let go of the model; the name stays."""
        with self._lock:
            self._watch = None
