"""Schedulers of vLLM that run one request as a group of sequences in lock step.

vLLM is told of them by name: `--scheduler-cls sda_integrations.vllm.scheduler.AsyncGroupScheduler`, or
`SyncGroupScheduler` where scheduling is not asynchronous.
"""

import time
from collections import Counter
from collections.abc import Sequence

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from sda_integrations.vllm.admission import GroupAdmission
from sda_integrations.vllm.groups import HIDDEN_CLIENT, Group
from sda_integrations.vllm.hooks import SCHEDULING
from sda_integrations.vllm.surface import demand_surface

demand_surface(SCHEDULING)


class GroupScheduling(GroupAdmission):
    """Runs a request whose extra arguments name rows as a group: the request itself, and a hidden one for each row.

    What holds after every step:

    1. Lock step: in a step, either all rows of a group sample a token, or none does.
    2. A group is admitted, preempted, aborted, finished and failed as a whole. Rows may be admitted in several steps,
       since a step reads only so many tokens; meanwhile nobody else is admitted. So at most one group is half admitted,
       and it cannot wait for blocks of another one that waits as well.
    3. Whoever samples never lacks a block: those who sample come first in `running`, and before each step there is room
       for one more token of each, or the youngest is preempted, be it a group or a plain request.
    4. First come, first served: a group at the head of the queue that does not fit is not overtaken.
    5. A group that runs alone fits into the cache up to its last token, or was refused. So somebody always gets on.
    6. Hidden rows are told to nobody: not as outputs, not among the finished.
    7. A group that falls out of step all the same ends as an error, and the engine goes on.

    Nothing of vLLM's `schedule` is repeated. It is steered by what it calls and what it reads:

    - `add_request` makes the rows. All get the same room for the answer, so that they end in the same step. What is
      wrong with a request ends that request, since an exception here would end the engine.
    - `_handle_blocked_waiting_request`, which vLLM asks about the head of the queue, holds 2 and 4. Where nobody more
      may be admitted it closes the door: it sets `max_num_active_reqs` to 0 for the rest of the step.
    - `_reserve_prefill_lookahead`, which may shorten what is read of a prompt, holds the last token back until all rows
      are that far.
    - `_get_local_prefix_cache_hit` leaves two tokens to read, the last one and one with which a row can be admitted.
    - `_preempt_request` takes note of rows that vLLM preempts, whose group follows before the next step.
    - `schedule` prepares the step for 3, and finds groups that are out of step.
    - `update_from_output` ends groups, tells of failed ones, and drops what hidden rows put out.
    - `finish_requests` widens what is aborted to whole groups.
    """

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
        if half is not None and self.pause_state == PauseState.PAUSED_NEW:
            self._broken[half] = None  # vLLM waits for those that run, and admits none: the half would never end
        for group in list(self._broken):
            self._preempt(group.running())
        self._broken.clear()

    def _make_room(self) -> list[Group]:
        """Preempt until all that are to sample have their blocks, and put these first; the groups among them."""
        ready, sampling = self._about_to_sample()
        while self._blocks.for_next_tokens(sampling) > self._blocks.free():
            self._preempt(self._youngest())
            ready, sampling = self._about_to_sample()
        self._broken.clear()
        if self.running[: len(sampling)] != sampling:
            first = set(sampling)
            self.running = [*sampling, *(one for one in self.running if one not in first)]
        return ready

    def _about_to_sample(self) -> tuple[list[Group], list[Request]]:
        """Groups of which every row has one token left to read; their rows and the plain requests of that kind."""
        close = [
            (one, self._groups.get(one.request_id))
            for one in self.running
            if one.num_tokens + one.num_output_placeholders - one.num_computed_tokens == 1
        ]
        near = Counter(group for _, group in close if group is not None)
        ready = [group for group, rows in near.items() if rows == len(group.rows) and group.id not in self._failed]
        going = set(ready)
        return ready, [one for one, group in close if group is None or group in going]

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
        """Preempt a request, by whoever's decision."""
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
