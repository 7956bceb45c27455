"""Forward passes: tokens of many rows in, logits out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.architecture import read_architecture
from sda_engine.decoding.attention import row_attention
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.mixers import Mixers
from sda_engine.decoding.picture_reader import PictureReader
from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.self_test import Footprint, run_self_test
from sda_engine.decoding.states import StateCost
from sda_engine.errors import EngineClosedError
from sda_engine.forks import compute
from sda_engine.models import Change, ModelWatch, adapter_at_work, repack_linear_layers

_CHEAP_TOKEN, _DEAR_TOKEN = 0.012, 0.08


class ModelRunner:
    """Runs one model. Its methods belong to the worker thread.

    Attributes:
        architecture: what the model's layers are.
        bytes_per_token: bytes that the keys and values of one token take in all layers; 1 where none keeps any.
        state_cost: what the state of a row takes in layers that carry one. Where it is not nothing, rows can be cut
            back only to where a state was kept.

    Raises:
        ModelLoadError: the engine cannot run this kind of model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.architecture = read_architecture(model)
        self._held: PreTrainedModel | None = model
        self._watch: ModelWatch | None = ModelWatch(model)
        self._missed = Change.NOTHING  # that nobody was told of yet
        self._pictures: PictureReader | None = PictureReader(model, self.forward)
        self._mixers: Mixers | None = Mixers(model, self.architecture.recurrent_layers)
        footprint = compute(self._test)
        self.bytes_per_token = max(1, footprint.token)
        self.state_cost = StateCost(fixed=-(-footprint.state // self.bytes_per_token))

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
        self._held = self._watch = self._mixers = self._pictures = None

    def make_memory(self) -> RowMemory:
        """Where rows of this model keep keys, values and states."""
        return RowMemory(state_cost=self.state_cost)

    @property
    def pictures_read(self) -> int:
        """Times that the vision tower ran."""
        return 0 if self._pictures is None else self._pictures.pictures_read

    @property
    def picture_bytes(self) -> int:
        """Bytes of what it made of pictures, as far as that is kept."""
        return 0 if self._pictures is None else self._pictures.held_bytes

    def notices_change(self) -> bool:
        """Whether the model has changed since this was last asked: its weights, its layers, adapters on them.

        Then no keys and values from before may be used. Packed copies of weights that changed are made anew.
        """
        changes = {self._missed, self._look()}
        self._missed = Change.NOTHING
        change = next((one for one in (Change.WEIGHTS, Change.LAYERS) if one in changes), Change.NOTHING)
        if change is Change.WEIGHTS:
            repack_linear_layers(self.model)
        if change is not Change.NOTHING and self._pictures is not None:
            self._pictures.forget()
        return change is not Change.NOTHING

    @property
    def token_cost(self) -> float:
        """What one more token adds to the cost of a small forward pass, as a fraction of it.

        Measured on CPUs: a pass in float32 soon computes as long as it loads weights, one in bfloat16 much later.
        """
        return _DEAR_TOKEN if self.model.device.type == "cpu" and self.model.dtype == torch.float32 else _CHEAP_TOKEN

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Append each segment's tokens to its row, all in one forward pass.

        Args:
            segments: of different rows, all under the same adapter.

        Returns:
            Per segment (keep, vocab), where the model is: the logits of what follows each of its last `keep` tokens.
        """
        return self._run(ForwardPass(segments, self.model.device, self.architecture.layers))

    @torch.inference_mode()
    def _test(self) -> Footprint:
        return run_self_test(self.model, self.architecture, self._run)

    def _run(self, forward_pass: ForwardPass) -> list[Tensor]:
        device, segments = self.model.device, forward_pass.segments
        kept = _kept(segments)
        adapter = segments[0].row.adapter
        with adapter_at_work(self.model, adapter), forward_pass.let_go_on_failure():
            inputs = self._inputs(segments)
            if self.architecture.scales_by_position:
                inputs["past_key_values"] = _Offsets(torch.tensor(_places(segments), device=device))
        mixers = self._mixers
        assert mixers is not None, "the model is there"
        with (
            row_attention(self.model),
            adapter_at_work(self.model, adapter),
            forward_pass.runs_in_this_thread(),
            mixers.by_rows(segments) as commit_states,
            forward_pass.let_go_on_failure(),
        ):
            output = self.model(
                **inputs,
                attention_mask=torch.zeros((1, 1, 1, 1), device=device),  # a mask of four axes is taken as it is
                use_cache=False,
                logits_to_keep=_index(self.model, kept),
                forward_pass=forward_pass,
            )
        commit_states()
        for segment in segments:
            segment.row.append(segment.token_ids)
        logits = cast(Tensor, output.logits)[0]  # (kept tokens of all segments, vocab)
        if len(logits) == forward_pass.tokens > len(kept):
            logits = logits[kept]  # the model does not know `logits_to_keep`
        return list(torch.split(logits, [segment.keep for segment in segments]))

    def _look(self) -> Change:
        return Change.NOTHING if self._watch is None else self._watch.look()

    def _inputs(self, segments: Sequence[Segment]) -> dict[str, object]:
        """What the model is told of the tokens of a pass."""
        if self._pictures is not None and any(segment.row.pictures is not None for segment in segments):
            if self._pictures.pictures_read:
                return self._pictures.inputs(segments)
            # when a tower first runs, transformers hooks its layers: that is no change of the model
            if (change := self._look()) is not Change.NOTHING:
                self._missed = change
            try:
                return self._pictures.inputs(segments)
            finally:
                self._look()
        device = self.model.device
        token_ids = [token_id for segment in segments for token_id in segment.token_ids]
        return {
            "input_ids": torch.tensor([token_ids], device=device),
            "position_ids": torch.tensor([_places(segments)], device=device),
        }


class _Offsets:
    """Stands where a cache would: layers that count on from how much that holds (Llama 4) count in each token's row.

    Args:
        positions: (tokens of all segments,) in their rows.
    """

    def __init__(self, positions: Tensor) -> None:
        self._offsets = positions - torch.arange(len(positions), device=positions.device)

    def get_seq_length(self, layer: int = 0) -> Tensor:
        """(tokens of all segments,) what to add to a token's place in the pass."""
        return self._offsets

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The new keys and values alone: those from before are with their rows."""
        return keys, values


def _index(model: PreTrainedModel, places: list[int]) -> Tensor | list[int]:
    """An index into what the last layer gives; as plain numbers where that may be on another device than the first."""
    is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    return places if is_spread else torch.tensor(places, device=model.device)


def _places(segments: Sequence[Segment]) -> list[int]:
    """Where in their rows the tokens of all segments stand."""
    return [segment.row.length + place for segment in segments for place in range(len(segment.token_ids))]


def _kept(segments: Sequence[Segment]) -> list[int]:
    """Where in the sequence of all tokens those stand whose logits are wanted."""
    kept: list[int] = []
    end = 0
    for segment in segments:
        end += len(segment.token_ids)
        kept += range(end - segment.keep, end)
    return kept
