"""What vLLM's EngineCore does with a scheduler, step by step, with a worker that has no model."""

from collections import deque
from collections.abc import Callable
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs, FinishReason
from vllm.v1.request import Request

from tests.vllm.fake_worker import FakeWorker
from tests.vllm.small_vllm import Machine, make_scheduler


class SmallEngine:
    """An engine whose steps are taken by hand.

    Attributes:
        tokens: what each client was told.
        ends: how each ended.
        outputs: what clients were told of a request that has ended, as vLLM's output.
        scheduled: what was computed, step by step.
    """

    def __init__(self, machine: Machine, *, plain: bool = False) -> None:
        self.machine = machine
        self.scheduler: Any = make_scheduler(machine, plain=plain)
        self.worker = FakeWorker(machine)
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, FinishReason] = {}
        self.outputs: dict[str, Any] = {}
        self.scheduled: list[SchedulerOutput] = []
        self._in_flight: deque[Any] = deque()

    @property
    def is_idle(self) -> bool:
        return not self._in_flight and not self.scheduler.has_requests()

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.scheduler.add_request(request)

    def step(
        self, *, throttle: bool = False, between: Callable[[], None] = lambda: None
    ) -> dict[int, EngineCoreOutputs]:
        """One step, or the first half of the first one where the scheduler runs ahead: what is told to whom.

        Args:
            throttle: whether prompts are held up, as vLLM does between replicas.
            between: what happens while the model runs.
        """
        if self.scheduler.has_requests():
            scheduled = self.scheduler.schedule(throttle)
            self.scheduled.append(scheduled)
            self._in_flight.append((scheduled, self.worker.execute(scheduled)))
            goes_on = scheduled.total_num_scheduled_tokens > 0 or self.scheduler.has_requests()
            if len(self._in_flight) < 1 + self.machine.asynchronous and goes_on:
                return {}
        if not self._in_flight:
            return {}
        between()
        told: dict[int, EngineCoreOutputs] = self.scheduler.update_from_output(*self._in_flight.popleft())
        for outputs in told.values():
            for output in outputs.outputs:
                self._take(output)
        return told

    def _take(self, output: Any) -> None:
        name = output.request_id
        assert name not in self.ends, f"{name} is told of something after its end"
        self.tokens.setdefault(name, []).extend(output.new_token_ids)
        if output.finish_reason is not None:
            self.ends[name] = output.finish_reason
            self.outputs[name] = output

    def run(self, steps: int = 1000) -> "SmallEngine":
        """Go on until nothing is left to do."""
        for _ in range(steps):
            if self.is_idle:
                return self
            self.step()
        raise AssertionError(f"requests do not end: {list(self.scheduler.requests)}")

    def check_nothing_is_left(self) -> None:
        scheduler, manager = self.scheduler, self.scheduler.kv_cache_manager
        left = [
            scheduler.requests, scheduler.running, list(scheduler.waiting), list(scheduler.kv_holding_waiting),
            scheduler.deferred_waiting, scheduler._inflight_prefills, scheduler._groups, scheduler._failed,
            scheduler._broken, scheduler.grammar_compile_error_reqs, scheduler.finished_req_ids_dict,
        ]  # fmt: skip
        assert not any(left), f"something is left: {left}"
        assert scheduler._opening is None or not scheduler._opening.running()
        assert manager.block_pool.get_num_free_blocks() == self.machine.blocks - 1, "blocks are left"
        for one in manager.coordinator.single_type_managers:
            assert not one.req_to_blocks
            assert not one.num_cached_block
