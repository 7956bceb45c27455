"""Taking requests on as groups, letting groups in as a whole, and ending them as a whole."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from sda_engine.errors import CapacityError, ConfigError
from sda_integrations.vllm.blocks import KVBlocks
from sda_integrations.vllm.groups import HIDDEN_CLIENT, Group, asks_for_group, check_lengths, make_group, read_rows
from sda_integrations.vllm.refusals import refuse_untested

_logger = logging.getLogger(__name__)


class GroupAdmission(Scheduler):
    """What `GroupScheduling` does before the rows of a group run, and when they end; see there."""

    running: list[Request]

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

    # Arrival

    def add_request(self, request: Request) -> None:
        """Take a request on; one that asks for a group as a group."""
        if not asks_for_group(request) or request.request_id in self.requests:
            super().add_request(request)
            return
        try:
            rows = self._rows_of(request)
        except Exception as error:  # noqa: BLE001 - whatever a client sends ends its own request, never the engine
            self._fail(request.request_id, f"{type(error).__name__}: {error}", level=logging.WARNING)
            rows = (request,)
        for row in rows:
            super().add_request(row)

    def _rows_of(self, request: Request) -> Sequence[Request]:
        """The rows of a request that asks for a group, which is taken down if it has hidden ones.

        Raises:
            SDAError: it cannot be run.
        """
        rows = read_rows(request, vocab_size=self._vocab_size)
        prompts = check_lengths(request, rows, window=self.max_model_len)
        if len(prompts) > self._slots:
            raise CapacityError(
                f"The group has {len(prompts)} rows, and vLLM runs {self._slots} sequences at most: start it with "
                f"--max-num-seqs {len(prompts)} or more."
            )
        most = min(request.max_tokens, self.max_model_len - max(prompts))
        group = make_group(request, rows, max_tokens=self._blocks.longest_answer(prompts, most))
        if any(row.request_id in self.requests for row in group.rows):
            raise ConfigError(f"Rows of {request.request_id!r} are there already: give each request its own id.")
        if len(group.rows) > 1:
            self._groups.update((row.request_id, group) for row in group.rows)
        return group.rows

    # Admission

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Whether the request at the head of the queue may be admitted; if not, it is passed over in this step."""
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
            if group is not None and any(self._is_blocked_waiting_status(row.status) for row in group.rows):
                return False
            if group is not None and not self._has_room(group):
                return self._close_door()
        if group is not None:
            self._opening = group
        return True

    def _half_admitted(self) -> Group | None:
        """The group that is being admitted; there is at most one."""
        if self._opening is not None and not self._opening.is_half_admitted():
            self._opening = None
        return self._opening

    def _has_room(self, group: Group) -> bool:
        taken = len(self.running) + self.num_waiting_for_streaming_input
        if taken + len(group.rows) > self._slots:
            return False
        return not self.scheduler_reserve_full_isl or self._blocks.can_admit(group.rows, others_run=bool(self.running))

    def _close_door(self) -> bool:
        """Let nobody more in during this step."""
        self.max_num_active_reqs = 0
        return False

    # Prompts

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """How many of the tokens that could be read in this step are read."""
        number: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if request.request_id in self._groups and request.request_id not in self._released:
            left = request.num_tokens + request.num_output_placeholders - num_computed_tokens
            number = min(number, left - 1)
        return max(number, 0)

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        """What the prefix cache has of a request that is to be admitted."""
        found: tuple[KVCacheBlocks, int, int, bool] = super()._get_local_prefix_cache_hit(request)
        if request.request_id not in self._groups or found[1] < request.num_tokens - 1:
            return found
        manager = self.kv_cache_manager
        longest = request.num_tokens - 2
        blocks, cached, behind = manager.coordinator.find_longest_cache_hit(request.block_hashes, longest)
        return manager.create_kv_cache_blocks(blocks), cached, cached + behind if behind else 0, False

    # The end before its time

    def _fail(self, request_id: str, reason: str, *, level: int = logging.ERROR) -> None:
        """End a request as an error with the results of the next step."""
        _logger.log(level, "Request %s ends as an error. %s", request_id, reason)
        self._failed.setdefault(request_id, reason)

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        """Finish requests before their time, groups as a whole.

        Returns:
            Those of clients that were finished now.
        """
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
