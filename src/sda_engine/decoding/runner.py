"""What runs a model's forward passes, whatever its layers are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.states import StateCost
from sda_engine.errors import EngineClosedError
from sda_engine.models import Change, ModelWatch, repack_linear_layers

_CHEAP_TOKEN, _DEAR_TOKEN = 0.012, 0.08


class Runner(ABC):
    """Runs one model. Its methods belong to the worker thread.

    Attributes:
        name: what users know this way of running a model as.
        reason: why the model runs this way and not another that costs less, and what it costs; None where none does.
        takes_pictures: whether rows may have pictures.
        stores_prefixes: whether later prompts can begin with keys and values of earlier ones.
        bytes_per_token: bytes that the keys and values of one token take in all layers; 1 where none keeps any.
        state_cost: what the state of a row takes in layers that carry one. Where it is not nothing, rows can be cut
            back only to where a state was kept.
    """

    name: str
    reason: str | None = None
    takes_pictures = False
    stores_prefixes = True
    bytes_per_token: int
    state_cost: StateCost

    def __init__(self, model: PreTrainedModel) -> None:
        self._held: PreTrainedModel | None = model
        self._watch: ModelWatch | None = ModelWatch(model)

    @property
    def outlives_forks(self) -> bool:
        """Whether the model can run in a forked process: what was set up on an accelerator cannot."""
        return self.place[0] == "cpu"

    @property
    def model(self) -> PreTrainedModel:
        """The model.

        Raises:
            EngineClosedError: it has been let go of.
        """
        if self._held is None:
            raise EngineClosedError(
                "The engine has been closed and has let go of its model. Load a new one with SteeringEngine.load(...), "
                "or take the model before you close its engine."
            )
        return self._held

    @property
    def place(self) -> tuple[str, str]:
        """Device and dtype of the model, e.g. ("cpu", "float32"); where it has been let go of, those that it had."""
        if self._held is not None:
            self._place = str(self._held.device), str(self._held.dtype).removeprefix("torch.")
        return self._place

    def release(self) -> None:
        """Let go of the model: nothing runs on it from here on."""
        self._place = self.place
        self._held = self._watch = None

    def notices_change(self) -> bool:
        """Whether the model has changed since this was last asked: its weights, its layers, adapters on them.

        Then no keys and values from before may be used. Packed copies of weights that changed are made anew.
        """
        change = self._look()
        if change is Change.WEIGHTS:
            repack_linear_layers(self.model)
        return change is not Change.NOTHING

    @property
    def pictures_read(self) -> int:
        """Times that a vision tower ran."""
        return 0

    @property
    def picture_bytes(self) -> int:
        """Bytes of what it made of pictures, as far as that is kept."""
        return 0

    @property
    def token_cost(self) -> float:
        """What one more token adds to the cost of a small forward pass, as a fraction of it.

        Measured on CPUs: a pass in float32 soon computes as long as it loads weights, one in bfloat16 much later.
        """
        return _DEAR_TOKEN if self.model.device.type == "cpu" and self.model.dtype == torch.float32 else _CHEAP_TOKEN

    @abstractmethod
    def make_memory(self) -> RowMemory:
        """Where rows of this model keep keys, values and states."""

    @abstractmethod
    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Append each segment's tokens to its row, all in one forward pass.

        Args:
            segments: of different rows, all under the same adapter.

        Returns:
            Per segment (keep, vocab), where the model is: the logits of what follows each of its last `keep` tokens.
        """

    def _look(self) -> Change:
        return Change.NOTHING if self._watch is None else self._watch.look()
