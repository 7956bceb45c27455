"""Forward passes: tokens of many rows in, logits out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.attention import check_attention, row_attention
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.mixers import Mixers, recurrent_layers
from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.runner import Runner
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.self_test import Footprint, run_self_test
from sda_engine.decoding.states import StateCost
from sda_engine.forks import compute


class ModelRunner(Runner):
    """Runs all tokens of a pass as one sequence, in which attention and mixers alone tell the rows apart.

    Raises:
        ModelLoadError: the engine cannot run this kind of model.
    """

    name = "flat"

    def __init__(self, model: PreTrainedModel) -> None:
        check_attention(model)
        super().__init__(model)
        self._mixers: Mixers | None = Mixers(model, recurrent_layers(model))
        footprint = compute(self._test)
        self.bytes_per_token = max(1, footprint.token)
        self.state_cost = StateCost(fixed=-(-footprint.state // self.bytes_per_token))

    def release(self) -> None:
        """Let go of the model: nothing runs on it from here on."""
        super().release()
        self._mixers = None

    def make_memory(self) -> RowMemory:
        """Where rows of this model keep keys, values and states."""
        return RowMemory(state_cost=self.state_cost)

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Append each segment's tokens to its row, all in one forward pass; see Runner."""
        return self._run(ForwardPass(segments, self.model.device))

    @torch.inference_mode()
    def _test(self) -> Footprint:
        return run_self_test(self.model, self._run)

    def _run(self, forward_pass: ForwardPass) -> list[Tensor]:
        device, segments = self.model.device, forward_pass.segments
        token_ids = [token_id for segment in segments for token_id in segment.token_ids]
        positions = [segment.row.length + place for segment in segments for place in range(len(segment.token_ids))]
        mixers = self._mixers
        assert mixers is not None, "the model is there"
        with row_attention(self.model), mixers.by_rows(segments) as commit_states, forward_pass.let_go_on_failure():
            output = self.model(
                input_ids=torch.tensor([token_ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                attention_mask=torch.zeros((1, 1, 1, 1), device=device),  # a mask of four axes is taken as it is
                use_cache=False,
                logits_to_keep=torch.tensor(_kept(segments), device=device),
                forward_pass=forward_pass,
            )
        commit_states()
        for segment in segments:
            segment.row.append(segment.token_ids)
        logits = cast(Tensor, output.logits)[0]  # (kept tokens of all segments, vocab)
        return list(torch.split(logits, [segment.keep for segment in segments]))


def _kept(segments: Sequence[Segment]) -> list[int]:
    """Where in the sequence of all tokens those stand whose logits are wanted."""
    kept: list[int] = []
    end = 0
    for segment in segments:
        end += len(segment.token_ids)
        kept += range(end - segment.keep, end)
    return kept
