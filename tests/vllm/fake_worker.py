"""A worker of vLLM with a model that is a pure function, told of requests only by what the scheduler sends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput

from tests.vllm.small_vllm import VOCAB, Machine


def chained(before: int, token: int) -> int:
    """What a position holds: it stands for the whole text up to there."""
    return hash((before, token))


def chain_of(tokens: Iterable[int], adapter: int) -> int:
    """The same for a whole text, which each LoRA adapter reads in its own way."""
    chain = 977 + adapter
    for token in tokens:
        chain = chained(chain, token)
    return chain


def next_token(chains: Sequence[int]) -> int:
    """The model and our rule in one: a token that every row decides, each with all of its tokens."""
    return hash(tuple(chains)) % VOCAB


@dataclass(eq=False)
class Sequenced:
    """A request as the worker knows it."""

    tokens: list[int]
    computed: int
    blocks: list[list[int]]
    member: dict[str, Any] | None
    adapter: int


class FakeWorker:
    """Keeps keys and values in the blocks that it is told of, and reads them back before each token.

    Attributes:
        out_of_step: groups of which only some rows were to sample.
        wrong_groups: groups of which to sample a token that differs in one row, to see what comes of it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen: dict[str, Sequenced] = {}
        self._kept: dict[str, tuple[dict[str, Any] | None, int]] = {}  # what the first runner is not told again
        self._cells: dict[tuple[int, int], int] = {}
        self.out_of_step: list[str] = []
        self.wrong_groups: set[str] = set()

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        for gone in scheduled.finished_req_ids | (scheduled.preempted_req_ids or set()):
            self._seen.pop(gone, None)
        self._take_new(scheduled)
        self._take_known(scheduled)
        sampling = [one for one, number in scheduled.num_scheduled_tokens.items() if self._read(one, number)]
        for one in sampling:
            self._check_cells(one)
        tokens = self._sample(sampling)
        for one, token in tokens.items():
            self._seen[one].tokens.append(token)
        names = list(scheduled.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={one: place for place, one in enumerate(names)},
            sampled_token_ids=[[tokens[one]] if one in tokens else [] for one in names],
        )

    def _take_new(self, scheduled: SchedulerOutput) -> None:
        for new in scheduled.scheduled_new_reqs:
            known = new.prefill_token_ids if self._machine.second_runner else new.prompt_token_ids
            member = (new.sampling_params.extra_args or {}).get("sda")
            assert member is None or {"settings", "group", "row", "count"} == set(member)
            blocks = [list(ids) for ids in new.block_ids]
            adapter = new.lora_request.lora_int_id if new.lora_request else 0
            self._seen[new.req_id] = Sequenced(list(known), new.num_computed_tokens, blocks, member, adapter)
            self._kept[new.req_id] = member, adapter

    def _take_known(self, scheduled: SchedulerOutput) -> None:
        cached = scheduled.scheduled_cached_reqs
        for place, one in enumerate(cached.req_ids):
            blocks, computed = cached.new_block_ids[place], cached.num_computed_tokens[place]
            if one in cached.resumed_req_ids:
                tokens = list(cached.all_token_ids[one])
                self._seen[one] = Sequenced(tokens, computed, [list(ids) for ids in blocks], *self._kept[one])
                continue
            state = self._seen[one]
            assert state.computed == computed, f"{one} stands at {state.computed}, not {computed}"
            for own, more in zip(state.blocks, blocks or [], strict=False):
                own.extend(more)

    def _read(self, one: str, number: int) -> bool:
        """Compute so many tokens; whether there is a token to sample then."""
        state = self._seen[one]
        assert number > 0
        assert state.computed + number <= len(state.tokens), f"{one} is to read tokens that nobody knows"
        chain = chain_of(state.tokens[: state.computed], state.adapter)
        for position in range(state.computed, state.computed + number):
            chain = chained(chain, state.tokens[position])
            for cell in self._cells_at(state, position):
                self._cells[cell] = chain
        state.computed += number
        return state.computed == len(state.tokens)

    def _cells_at(self, state: Sequenced, position: int) -> list[tuple[int, int]]:
        size = self._machine.block_size
        return [(blocks[position // size], position % size) for blocks in state.blocks]

    def _check_cells(self, one: str) -> None:
        """Read what every layer would look at."""
        state, chain = self._seen[one], chain_of([], self._seen[one].adapter)
        for position, token in enumerate(state.tokens):
            chain = chained(chain, token)
            cells = self._cells_at(state, position)
            if self._machine.sliding_window and position < state.computed - self._machine.sliding_window:
                cells = cells[:1]
            for cell in cells:
                assert self._cells.get(cell) == chain, f"{one} finds another text at {position} of its blocks"

    def _chain(self, one: str) -> int:
        return chain_of(self._seen[one].tokens, self._seen[one].adapter)

    def _sample(self, sampling: list[str]) -> dict[str, int]:
        present: dict[str, dict[str, str]] = {}
        tokens: dict[str, int] = {}
        for one in sampling:
            member = self._seen[one].member
            if member is None or member["count"] == 1:
                tokens[one] = next_token([self._chain(one)])
            else:
                present.setdefault(member["group"], {})[member["row"]] = one
        for group, rows in present.items():
            ordered = sorted(rows, key=lambda row: (row == "avoided", row != "base", row))
            chains = [self._chain(rows[row]) for row in ordered]
            if len(rows) != self._seen[rows[ordered[0]]].member["count"]:
                self.out_of_step.append(group)
            token = next_token(chains)
            tokens.update((one, token) for one in rows.values())
            if group in self.wrong_groups:
                tokens[rows[ordered[-1]]] = (token + 1) % VOCAB
        return tokens
