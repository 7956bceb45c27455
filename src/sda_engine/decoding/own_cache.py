"""The second way to run a model: rows on caches that the model itself makes, where they cannot share one flat pass.

A prompt goes through a pass of its own. Rows that decode go through one together, their caches joined, where the model
is right about that, or else each by itself. What a row holds does not change once a pass has succeeded, so that a pass
that fails leaves all rows as they were, and forks and states that are kept cost nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.cache_pass import CachePass, Ways
from sda_engine.decoding.cache_rows import CacheBatch, CacheMemory, CacheState, joined_batch
from sda_engine.decoding.cache_test import check_own_cache, find_ways
from sda_engine.decoding.caches import copied, let_go
from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.runner import Runner
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.self_test import Footprint
from sda_engine.decoding.states import RowState, StateCost
from sda_engine.forks import compute
from sda_engine.models import adapter_at_work

_MOST_PADDING = 256  # tokens of padding that a row may get in a batch, or else as many as it has itself

_Step = tuple[Segment, Tensor, CacheState]


class OwnCacheRunner(Runner):
    """Runs rows on the model's own cache.

    Args:
        model: the model.

    Attributes:
        ways: what the model is right about, as it has shown.

    Raises:
        ModelLoadError: it is wrong on its own cache, or has none.
    """

    name = "own cache"
    stores_prefixes = False

    def __init__(self, model: PreTrainedModel) -> None:
        check_own_cache(model)
        super().__init__(model)
        self._pass = CachePass(model)
        self.ways = Ways()
        self.ways, footprint = compute(self._test)
        self.bytes_per_token = max(1, footprint.token)
        self.state_cost = StateCost(fixed=-(-footprint.state // self.bytes_per_token), per_token=1)

    def make_memory(self) -> RowMemory:
        """Where rows of this model keep their caches."""
        return CacheMemory(self.state_cost, takes_pieces=self.ways.pieces)

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Append each segment's tokens to its row, in passes for one row or several; see Runner."""
        with adapter_at_work(self.model, segments[0].row.adapter):
            return self._run(segments, self.ways)

    @torch.inference_mode()
    def _test(self) -> tuple[Ways, Footprint]:
        return find_ways(self.model, self._pass, self._run)

    def _run(self, segments: Sequence[Segment], ways: Ways) -> list[Tensor]:
        parts, done = _parts(segments, ways), list[_Step]()
        try:
            for part in parts:
                done += self._step(part, ways)
        except BaseException:
            for part in parts:
                part.clear()  # frames of an error, which may be kept, hold the lists, and they shall hold no rows then
            done.clear()
            raise
        for segment, _, state in done:
            segment.row.state = state
            segment.row.append(segment.token_ids)
        logits = {segment.row: values for segment, values, _ in done}
        return [logits[segment.row] for segment in segments]

    def _step(self, part: list[Segment], ways: Ways) -> list[_Step]:
        """One pass for rows that go through it together; nothing of it counts yet."""
        if part[0].row.state is not None and len(part[0].token_ids) > 1 and not ways.pieces:
            return self._read_on(part, ways)
        batch = _working_copy([segment.row.state for segment in part], ways)
        logits, batch = self._pass_of([segment.token_ids for segment in part], batch, part[0].keep)
        return [(segment, logits[index], _state(batch, index, segment)) for index, segment in enumerate(part)]

    def _read_on(self, part: list[Segment], ways: Ways) -> list[_Step]:
        """Several tokens behind others, where the model is wrong about these: one by one, or the whole row anew."""
        token_ids, keep, held = part[0].token_ids, part[0].keep, part[0].row.token_ids
        if len(token_ids) > 1 + (len(held) + len(token_ids)) * self.token_cost:
            logits, batch = self._pass_of([[*held, *token_ids]], None, keep)
            return [(part[0], logits[0], _state(batch, 0, part[0]))]
        copy, steps = _working_copy([part[0].row.state], ways), list[Tensor]()
        for token_id in token_ids:
            logits, copy = self._pass_of([[token_id]], copy, 1)
            steps.append(logits[0])
        return [(part[0], torch.cat(steps[-keep:]), _state(copy, 0, part[0]))]

    def _pass_of(
        self, token_ids: Sequence[Sequence[int]], batch: CacheBatch | None, keep: int
    ) -> tuple[Tensor, CacheBatch]:
        try:
            return self._pass.run(self.model, token_ids, batch, keep=keep)
        except BaseException:
            if batch is not None:
                let_go(batch.cache)
            raise


def _parts(segments: Sequence[Segment], ways: Ways) -> list[list[Segment]]:
    """Segments that go through a pass together: those that decode, as long as none gets too much padding."""
    decoding = [segment for segment in segments if _decodes(segment, ways)]
    parts = [[segment] for segment in segments if not _decodes(segment, ways)]
    alone = len(parts)
    for segment in sorted(
        decoding, key=lambda segment: -segment.row.length
    ):  # equal ones stay in order: see `is_whole`
        length = segment.row.length
        if len(parts) > alone and parts[-1][0].row.length - length <= max(length, _MOST_PADDING):
            parts[-1].append(segment)
        else:
            parts.append([segment])
    return parts


def _decodes(segment: Segment, ways: Ways) -> bool:
    return ways.joins and segment.row.state is not None and len(segment.token_ids) == 1


def _working_copy(states: Sequence[RowState | None], ways: Ways) -> CacheBatch | None:
    """What a pass may change; None for a row without tokens."""
    held = [state for state in states if isinstance(state, CacheState)]
    if not held:
        return None
    batch = held[0].batch
    is_whole = [(state.batch, state.index) for state in held] == [(batch, index) for index in range(len(batch.lengths))]
    return replace(batch, cache=copied(batch.cache, deep=not ways.shares)) if is_whole else joined_batch(held)


def _state(batch: CacheBatch | None, index: int, segment: Segment) -> CacheState:
    assert batch is not None, "a pass has gone before"
    memory = segment.row.memory
    return CacheState(batch, index, memory.ledger, memory.state_cost)
