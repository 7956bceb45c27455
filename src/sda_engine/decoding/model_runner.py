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
from sda_engine.decoding.runner import Runner
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.self_test import Footprint, run_self_test
from sda_engine.decoding.states import StateCost
from sda_engine.forks import compute
from sda_engine.models import Change, adapter_at_work


class ModelRunner(Runner):
    """Runs all tokens of a pass as one sequence, in which attention and mixers alone tell the rows apart.

    Attributes:
        architecture: what the model's layers are.

    Raises:
        ModelLoadError: the engine cannot run this kind of model.
    """

    name = "flat"
    takes_pictures = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.architecture = read_architecture(model)
        super().__init__(model)
        self._missed = Change.NOTHING  # that nobody was told of yet
        self._pictures: PictureReader | None = PictureReader(model, self.forward)
        self._mixers: Mixers | None = Mixers(model, self.architecture.recurrent_layers)
        footprint = compute(self._test)
        self.bytes_per_token = max(1, footprint.token)
        self.state_cost = StateCost(fixed=-(-footprint.state // self.bytes_per_token))

    def release(self) -> None:
        """Let go of the model: nothing runs on it from here on."""
        super().release()
        self._mixers = self._pictures = None

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
        """Whether the model has changed since this was last asked; see Runner."""
        changed = super().notices_change()
        if changed and self._pictures is not None:
            self._pictures.forget()
        return changed

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Append each segment's tokens to its row, all in one forward pass; see Runner."""
        return self._run(ForwardPass(segments, self.model.device, self.architecture.layers))

    @torch.inference_mode()
    def _test(self) -> Footprint:
        return run_self_test(self.model, self.architecture, self._run)

    def _run(self, forward_pass: ForwardPass) -> list[Tensor]:
        device, segments = self.model.device, forward_pass.segments
        kept = _kept(segments)
        with forward_pass.let_go_on_failure():
            inputs = self._inputs(segments)
            if self.architecture.scales_by_position:
                inputs["past_key_values"] = _Offsets(torch.tensor(_places(segments), device=device))
        mixers = self._mixers
        assert mixers is not None, "the model is there"
        with (
            row_attention(self.model),
            adapter_at_work(self.model, segments[0].row.adapter),
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
        changes = {self._missed, super()._look()}
        self._missed = Change.NOTHING
        return next((change for change in (Change.WEIGHTS, Change.LAYERS) if change in changes), Change.NOTHING)

    def _inputs(self, segments: Sequence[Segment]) -> dict[str, object]:
        """What the model is told of the tokens of a pass."""
        if self._pictures is not None and any(segment.row.pictures is not None for segment in segments):
            if self._pictures.pictures_read:
                return self._pictures.inputs(segments)
            # when a tower first runs, transformers hooks its layers: that is no change of the model
            self._missed = self._look()
            try:
                return self._pictures.inputs(segments)
            finally:
                super()._look()
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
