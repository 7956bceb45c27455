"""Schedulers of vLLM that run one request as a group of sequences in lock step.

vLLM is told of them by name: `--scheduler-cls sda_integrations.vllm.scheduler.AsyncGroupScheduler`, or
`SyncGroupScheduler` where scheduling is not asynchronous.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from sda_integrations.vllm.blocks import KVBlocks
from sda_integrations.vllm.groups import HIDDEN_CLIENT, Group, asks_for_group, check_lengths, make_group, read_rows
from sda_integrations.vllm.refusals import refuse_untested

_logger = logging.getLogger(__name__)


class GroupScheduling(Scheduler):
    """Runs a request whose extra arguments name rows as a group: the request itself, and a hidden one for each row.

    What holds after every step:

    1. Lock step: in a step, either all rows of a group sample a token, or none does.
    2. A group is admitted, preempted, aborted, finished and failed as a whole. Rows may be admitted in several steps,
       since a step reads only so many tokens; meanwhile nobody else is admitted, so at most one group is half admitted,
       and it cannot wait for blocks that another one holds that waits as well.
    3. Whoever samples never lacks a block: those who sample come first in `running`, and before each step there is room
       for one more token of each, or the youngest is preempted, be it a group or a plain request.
    4. First come, first served: a group at the head of the queue that does not fit is not overtaken.
    5. A group that runs alone fits into the cache up to its last token, or was refused. So somebody always gets on.
    6. Hidden rows are told to nobody: not as outputs, not among the finished.
    7. A group that falls out of step all the same ends as an error, and the engine goes on.

    Nothing of vLLM's `schedule` is repeated. It is steered by what it calls and what it reads:

    - `add_request` makes the rows. All get the same room for the answer, so that they end in the same step. What is
      wrong with a request ends that request, since an exception here would end the engine.
    - `_handle_blocked_waiting_request`, which vLLM asks about the head of the queue, holds 2 and 4. Where nobody more may
      be admitted it closes the door: it sets `max_num_active_reqs` to 0 for the rest of the step.
    - `_reserve_prefill_lookahead`, which may shorten what is read of a prompt, holds the last token back until all rows
      are that far.
    - `_get_local_prefix_cache_hit` leaves two tokens to read, the last one and one with which a row can be admitted.
    - `_preempt_request` takes note of rows that vLLM preempts, whose group follows before the next step.
    - `schedule` prepares the step for 3, and finds groups that are out of step.
    - `update_from_output` ends groups, tells of failed ones, and drops what hidden rows put out.
    - `finish_requests` widens what is aborted to whole groups.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_untested(self)
        self._blocks = KVBlocks(self.kv_cache_manager)
        self._vocab_size: int = self.vllm_config.model_config.get_vocab_size()
        self._slots: int = self.max_num_active_reqs
        self._groups: dict[str, Group] = {}  # by the id of each of their rows
        self._failed: dict[str, str] = {}  # id of the client's request -> why it is to end as an error
        self._broken: dict[Group, None] = {}  # a row was preempted; a dict, since the order must be the same everywhere
        self._released: set[str] = set()  # ids of rows that may sample in this step
        self._opening: Group | None = None  # the one that was admitted last, perhaps not with all rows
        self._lora_ids: set[int] = set()  # of all that run

    # Arrival

    def add_request(self, request: Request) -> None:
        """Take a request on; one that asks for a group as a group."""
        if not asks_for_group(request) or request.request_id in self.requests:
            super().add_request(request)
            return
        try:
            rows = self._rows_of(request)
        except Exception as error:  # noqa: BLE001 - whatever a client sends ends its own request, never the engine
            self._fail(request.request_id, f"{type(error).__name__}: {error}")
            rows = (request,)
        for row in rows:
            super().add_request(row)

    def _rows_of(self, request: Request) -> Sequence[Request]:
        rows = read_rows(request, vocab_size=self._vocab_size)
        prompts = check_lengths(request, rows, window=self.max_model_len)
        if len(prompts) > self._slots:
            raise ValueError(
                f"The group has {len(prompts)} rows, and vLLM runs {self._slots} sequences at most: start it with "
                "--max-num-seqs of that many or more."
            )
        most = min(request.max_tokens, self.max_model_len - max(prompts))
        group = make_group(request, rows, max_tokens=self._blocks.longest_answer(prompts, most))
        if any(row.request_id in self.requests for row in group.rows):
            raise ValueError(
                f"The rows of {request.request_id!r} are there already: give each request an id of its own."
            )
        if len(group.rows) > 1:
            self._groups.update((row.request_id, group) for row in group.rows)
        return group.rows

    # Admission

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        group = self._groups.get(request.request_id)
        if (group.id if group else request.request_id) in self._failed:
            return False
        if not super()._handle_blocked_waiting_request(request):
            return False
        if not self._groups:
            return True
        half = self._half_admitted()
        if group is None or group is not half:
            if half is not None:
                return self._close_door()
            if group is not None and any(map(self._cannot_start, group.rows)):
                return False
            if group is not None and not self._has_room(group):
                return self._close_door()
        if not self._takes_adapter_of(request):
            return False
        if group is not None:
            self._opening = group
        return True

    def _half_admitted(self) -> Group | None:
        """The group that is being admitted; there is at most one."""
        if self._opening is not None and not self._opening.is_half_admitted():
            self._opening = None
        return self._opening

    def _cannot_start(self, row: Request) -> bool:
        """Whether vLLM would pass a row over: its grammar is not ready, or a token of before it was preempted is due."""
        stale = row.num_stale_output_tokens and not row.drop_stale_output
        return bool(stale) or self._is_blocked_waiting_status(row.status)

    def _has_room(self, group: Group) -> bool:
        taken = len(self.running) + self.num_waiting_for_streaming_input
        if taken + len(group.rows) > self._slots:
            return False
        return not self.scheduler_reserve_full_isl or self._blocks.can_admit(group.rows, others_run=bool(self.running))

    def _takes_adapter_of(self, request: Request) -> bool:
        """Whether a request's adapter is one of those that run, or may be one more.

        vLLM counts those of the step, and a row that is held is in none.
        """
        if not self.lora_config or not request.lora_request:
            return True
        self._lora_ids.add(request.lora_request.lora_int_id)
        if len(self._lora_ids) <= self.lora_config.max_loras:
            return True
        self._lora_ids.discard(request.lora_request.lora_int_id)
        return False

    def _close_door(self) -> bool:
        """Let nobody more in during this step."""
        self.max_num_active_reqs = 0
        return False

    # Prompts

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        number: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if request.request_id in self._groups and request.request_id not in self._released:
            left = request.num_tokens + request.num_output_placeholders - num_computed_tokens
            number = min(number, left - 1)
        return max(number, 0)

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        found: tuple[KVCacheBlocks, int, int, bool] = super()._get_local_prefix_cache_hit(request)
        if request.request_id not in self._groups or found[1] < request.num_tokens - 1:
            return found
        manager = self.kv_cache_manager
        blocks, cached, behind = manager.coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_tokens - 2
        )
        return manager.create_kv_cache_blocks(blocks), cached, cached + behind if behind else 0, False

    # A step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Choose what is computed in the next step."""
        self._released.clear()
        if not self._groups:
            return super().schedule(throttle_prefills)
        self._part_broken_groups()
        ready = self._make_room()
        self._released.update(row.request_id for group in ready for row in group.rows)
        self._bring_forward(self._half_admitted())
        if self.lora_config:
            self._lora_ids = {one.lora_request.lora_int_id for one in self.running if one.lora_request}
        try:
            output = super().schedule(throttle_prefills)
        finally:
            self.max_num_active_reqs = self._slots
        for group in ready:
            if len({row.request_id in output.num_scheduled_tokens for row in group.rows}) > 1:
                self._fail(group.id, "LockStepError: only some rows of the group were to sample")
        return output

    def _part_broken_groups(self) -> None:
        """Preempt what is left of groups whose rows vLLM has preempted, or which cannot be admitted to the end."""
        half = self._half_admitted()
        if half is not None and self._pause_state == PauseState.PAUSED_NEW:
            self._broken[half] = None  # rows that wait count for nothing then, and those that run would never end
        for group in list(self._broken):
            self._preempt(group.running())
        self._broken.clear()

    def _make_room(self) -> list[Group]:
        """Preempt until all that are to sample have their blocks, and put these first; the groups among them."""
        ready, sampling = self._about_to_sample()
        while sum(map(self._blocks.for_next_token, sampling)) > self._blocks.free():
            self._preempt(self._youngest())
            ready, sampling = self._about_to_sample()
        self._broken.clear()
        if self.running[: len(sampling)] != sampling:
            first = set(sampling)
            self.running = [*sampling, *(one for one in self.running if one not in first)]
        return ready

    def _about_to_sample(self) -> tuple[list[Group], list[Request]]:
        """Groups of which every row has one token left to read, and all requests of that kind, plain ones among them."""
        close = [
            (one, self._groups.get(one.request_id))
            for one in self.running
            if one.num_tokens + one.num_output_placeholders - one.num_computed_tokens == 1
        ]
        rows: dict[Group, int] = {}
        for _, group in close:
            if group is not None:
                rows[group] = rows.get(group, 0) + 1
        ready = {
            group: None for group, near in rows.items() if near == len(group.rows) and group.id not in self._failed
        }
        return list(ready), [one for one, group in close if group is None or group in ready]

    def _youngest(self) -> list[Request]:
        """The rows that run of what came last."""
        _, _, last = max((one.arrival_time, place, one) for place, one in enumerate(self.running))
        group = self._groups.get(last.request_id)
        return [last] if group is None else group.running()

    def _preempt(self, rows: Sequence[Request]) -> None:
        """Preempt rows. Nobody is admitted in this step, not even they."""
        now = time.monotonic()
        for row in reversed(rows):  # the last to go back is the first in the queue
            self.running.remove(row)
            self._preempt_request(row, now)
            self._close_door()

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        super()._preempt_request(request, timestamp, drop_stale_output)
        if (group := self._groups.get(request.request_id)) is not None:
            self._broken[group] = None

    def _bring_forward(self, group: Group | None) -> None:
        """Put the rows of a half-admitted group that still wait at the head of the queue."""
        if group is None:
            return
        waiting = [row for row in group.rows if row.status != RequestStatus.RUNNING]
        if self.waiting.peek_request() is not waiting[0]:
            self.waiting.remove_requests(waiting)
            for row in reversed(waiting):
                self.waiting.prepend_request(row)

    # Results

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Take the tokens of a step, and tell each client what is new to it."""
        if not self._groups and not self._failed:
            return _without_hidden(super().update_from_output(scheduler_output, model_runner_output))
        sampled = self._compare_tokens(scheduler_output, model_runner_output)
        failures = self._end_failed()
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for group in sampled:
            self._end_if_finished(group)
        failures += self._end_failed()
        for client, failure in failures:
            outputs.setdefault(client, EngineCoreOutputs()).outputs.append(failure)
        return _without_hidden(outputs)

    def _compare_tokens(self, scheduled: SchedulerOutput, results: ModelRunnerOutput) -> list[Group]:
        """The groups of a step. Those whose rows did not get the same tokens fail."""
        tokens, places = results.sampled_token_ids, results.req_id_to_index
        groups = {group: None for one in scheduled.num_scheduled_tokens if (group := self._groups.get(one)) is not None}
        for group in groups:
            found = [
                tokens[places[row.request_id]] if tokens and row.request_id in places else [] for row in group.rows
            ]
            if any(one != found[0] for one in found):
                self._fail(group.id, f"LockStepError: the rows of the group got the tokens {found}")
        return list(groups)

    def _end_if_finished(self, group: Group) -> None:
        """End what is left of a group that is done, or that cannot go on with all its rows."""
        if group.id not in self._groups or not any(row.is_finished() for row in group.rows):
            return
        if group.main.is_finished():
            super().finish_requests([row.request_id for row in group.rows], RequestStatus.FINISHED_ABORTED)
            self._forget(group)
        else:
            self._fail(group.id, "LockStepError: a hidden row of the group ended before the client's own")

    def _fail(self, request_id: str, reason: str) -> None:
        """End a request as an error with the results of the next step."""
        _logger.error("Request %s fails. %s", request_id, reason)
        self._failed.setdefault(request_id, reason)

    def _end_failed(self) -> list[tuple[int, EngineCoreOutput]]:
        """Finish requests that have failed: what their clients are to be told."""
        reasons, self._failed = self._failed, {}
        if not reasons:
            return []
        return [
            (
                request.client_index,
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=[],
                    finish_reason=request.get_finished_reason(),
                    stop_reason=reasons[request.request_id],
                    events=request.take_events(),
                    trace_headers=request.trace_headers,
                ),
            )
            for request in self.finish_requests(reasons, RequestStatus.FINISHED_ERROR)
        ]

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        """Finish requests from outside, groups as a whole; those of clients that were finished."""
        if not self._groups and not self._failed:
            return list(super().finish_requests(request_ids, finished_status))
        if request_ids is not None:
            ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
            groups = {group for one in ids if (group := self._groups.get(one)) is not None}
            request_ids = ids.union(*([row.request_id for row in group.rows] for group in groups))
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        for request in finished:
            self._failed.pop(request.request_id, None)
            if (group := self._groups.get(request.request_id)) is not None:
                self._forget(group)
        return [request for request in finished if request.client_index != HIDDEN_CLIENT]

    def _forget(self, group: Group) -> None:
        for row in group.rows:
            self._groups.pop(row.request_id, None)
        self._failed.pop(group.id, None)
        self._broken.pop(group, None)
        if self._opening is group:
            self._opening = None


def _without_hidden(outputs: dict[int, EngineCoreOutputs]) -> dict[int, EngineCoreOutputs]:
    """What clients are told; figures of the scheduler, which vLLM gives to whoever comes first, go to one of them."""
    hidden = outputs.pop(HIDDEN_CLIENT, None)
    if hidden is not None and hidden.scheduler_stats is not None:
        told = next(iter(outputs.values()), None) or outputs.setdefault(0, EngineCoreOutputs())
        told.scheduler_stats = hidden.scheduler_stats
    return outputs


class SyncGroupScheduler(GroupScheduling):
    """For scheduling that waits for each step: `--no-async-scheduling`, and vLLM on a CPU."""


class AsyncGroupScheduler(GroupScheduling, AsyncScheduler):
    """For scheduling that runs a step ahead of the model, vLLM's default on GPUs."""
