"""The running batch: tasks that go through the same forward passes, and join and leave between them."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from weakref import WeakKeyDictionary

from torch import Tensor

from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.rows import TAIL, Row, held_tokens
from sda_engine.decoding.runner import Runner
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.stats import BatchStats
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.tasks import Choosing, Failed, Finished, PassLimits, Task
from sda_engine.decoding.wanted import Chosen, Wanted
from sda_engine.engine_settings import EngineSettings

_logger = logging.getLogger(__name__)

_ALONE = 1024  # tokens of a prompt in one pass where nobody waits for it
_SHARE_OF_OLDEST = 4  # of a pass, one in so many prompt tokens is the oldest prompt's
_AHEAD = 64  # tokens of each row that there has to be room for before one more task joins
_MOST_VERIFIED = 16  # tokens of a pass up to which proposing more of them is worth a thought


class RunningBatch:
    """Runs tasks together, one forward pass at a time. The worker thread alone touches it.

    Decoding tasks take part in every pass. Prompts are prefilled in pieces, small ones while others decode: first the
    shortest, since it ends soonest, with a share for the oldest, which might never get its turn. A task that fails
    leaves the others as they are.

    Args:
        runner: runs the model.
        settings: how much runs at once.
        cache_tokens: tokens whose keys and values may be held, those of stored prefixes included; states of layers that
            carry them count as so many tokens.

    Attributes:
        stats: numbers after the last pass; any thread may read them.
    """

    def __init__(self, runner: Runner, settings: EngineSettings, cache_tokens: int) -> None:
        self._runner = runner
        self._settings = settings
        self._cache_tokens = cache_tokens
        self._most_stored = cache_tokens // 2 if settings.prefix_cache and runner.stores_prefixes else 0
        self._memory = runner.make_memory()
        self._store = PrefixStore(self._most_stored, self._memory)
        self._tasks: list[Task] = []
        self.stats = BatchStats()
        # of running tasks, and of requests between two tasks, in the order in which they came
        self._prompts: WeakKeyDictionary[PromptState, None] = WeakKeyDictionary()

    @property
    def tasks(self) -> Sequence[Task]:
        """What runs, in the order in which it came."""
        return tuple(self._tasks)

    def make_room(self, task: Task) -> bool:
        """Whether a task may join now.

        Where it needs the memory of requests between two tasks, whose evaluators work, say, the youngest of them let go
        of their rows. So nobody waits for a request that waits itself.
        """
        running = self._running
        if any(other.suspended for other in self._tasks):
            return False  # what was here before goes first
        if running and sum(other.row_count for other in (*running, task)) > self._settings.max_rows:
            return False
        return self._make_room([*running, task], 0)

    def add(self, task: Task) -> None:
        """Let a task take part from the next pass on; stored prefixes make room for its rows."""
        if not all(prompt in self._prompts for prompt in task.prompts) and self._runner.notices_change():
            self._forget_prompts()
        self._prompts.update(dict.fromkeys(task.prompts))
        self._tasks.append(task)
        self._share_memory(0)

    def drop(self, task: Task) -> None:
        """End a cancelled task that never joined."""
        self._finish(task)

    def fail(self, tasks: Sequence[Task], error: BaseException) -> None:
        """End tasks with an error, whether they have joined or not."""
        for task in tasks:
            self._fail(task, error)

    def clear(self) -> None:
        """Forget the tasks and the stored prefixes."""
        self._tasks.clear()
        self._store.clear()
        self._memory.slots.give_back()

    def step(self) -> None:
        """One forward pass over everything that wants one, and what follows from it for each task."""
        for task in [task for task in self._tasks if task.cancelled]:
            self._finish(task)
        self._resume()
        logits = self._forward_by_adapter(self._fitted(self._plan()))
        self._note()
        choosing: dict[Task, Choosing] = {}
        for task in list(logits):  # this frame must hold no rows or logits: a kept exception of a task keeps it alive
            self._take(task, logits.pop(task), choosing)
        self._choose(choosing)
        self._share_memory(0)

    @property
    def _running(self) -> list[Task]:
        return [task for task in self._tasks if not task.suspended]

    def _note(self) -> None:
        """Note what is held now; before a task tells a token or its end, so that who waits for it finds it counted."""
        self.stats = replace(
            self.stats,
            running_tasks=len(self._tasks),
            rows=sum(task.row_count for task in self._running),
            held_tokens=self._memory.row_tokens,
            stored_tokens=self._store.tokens,
            reused_tokens=self._store.read_tokens,
            pictures_read=self._runner.pictures_read,
            picture_bytes=self._runner.picture_bytes,
        )

    def _forget_prompts(self) -> None:
        """Neither what is stored nor what requests have computed so far may begin a prompt from here on."""
        self._store.clear()
        for prompt in self._prompts:
            prompt.spoilt = True

    def _plan(self) -> dict[Task, list[Segment]]:
        decoding = [task for task in self._running if not task.in_bulk]
        reading = [task for task in self._running if task.in_bulk]
        rows = sum(task.row_count for task in decoding)
        most = 0 if self._memory.state_cost else self._settings.proposals  # a state cannot be taken back
        proposals = min(most, max(0, _MOST_VERIFIED // max(rows, 1) - 1))
        planned: dict[Task, list[Segment]] = {}
        for task in decoding:
            self._plan_task(task, PassLimits(0, proposals), planned)
        left = self._settings.prefill_chunk if decoding else max(_ALONE, self._settings.prefill_chunk)
        kept = left // _SHARE_OF_OLDEST
        begun: list[PromptState] = []
        for task in sorted(reading, key=lambda task: task.unread(self._store)):
            kept = 0 if task is reading[0] else kept
            most = max(0, left - kept)
            if most and self._most_stored and any(task.prompt.awaits(other, self._store) for other in begun):
                continue
            self._plan_task(task, PassLimits(most, proposals), planned)
            begun += task.prompts
            left -= sum(len(segment.token_ids) for segment in planned.get(task, ()))
        return planned

    def _plan_task(self, task: Task, limits: PassLimits, planned: dict[Task, list[Segment]]) -> None:
        try:
            planned[task] = task.plan(limits, self._store)
        except BaseException as error:  # noqa: BLE001 - a user's code may raise SystemExit: not for the others
            self._fail(task, error)

    def _forward_by_adapter(self, planned: dict[Task, list[Segment]]) -> dict[Task, list[Tensor]]:
        """Run what is planned, that of each adapter in passes of its own; the plan is emptied."""
        logits: dict[Task, list[Tensor]] = {}
        while planned:
            adapter = next(iter(planned)).prompt.adapter
            alike = [task for task in planned if task.prompt.adapter == adapter]
            logits |= self._forward({task: planned.pop(task) for task in alike})
        return logits

    def _forward(self, planned: dict[Task, list[Segment]]) -> dict[Task, list[Tensor]]:
        """Run what is planned in one pass, or else each task in one of its own; tasks that fail are left out.

        The plan is emptied: an error may be kept, and with it this frame, which then holds no rows.
        """
        counts = {task: len(segments) for task, segments in planned.items()}
        if not any(counts.values()):
            return {task: [] for task in counts}
        outcome = self._try([segment for segments in planned.values() for segment in segments])
        if isinstance(outcome, BaseException):
            if len(counts) > 1:
                return {task: alone for task in counts for alone in self._forward({task: planned.pop(task)}).values()}
            planned.clear()
            self._fail(next(iter(counts)), outcome)
            return {}
        planned.clear()
        logits = iter(outcome)
        return {task: [next(logits) for _ in range(count)] for task, count in counts.items()}

    def _try(self, segments: list[Segment]) -> list[Tensor] | BaseException:
        """One pass, or why there is none; then the segments are let go of, which frames of the error still hold."""
        try:
            return self._run(segments)
        except BaseException as error:  # noqa: BLE001 - out of memory, a hook of the user's: whatever it is
            segments.clear()
            return error

    def _run(self, segments: Sequence[Segment]) -> list[Tensor]:
        """One pass, noted in the numbers."""
        start = time.perf_counter()
        logits = self._runner.forward(segments)
        seconds = time.perf_counter() - start
        tokens = sum(len(segment.token_ids) for segment in segments)
        _logger.debug("A pass of %d rows and %d tokens took %.1f ms.", len(segments), tokens, 1000 * seconds)
        so_far = self.stats
        self.stats = replace(
            so_far,
            passes=so_far.passes + 1,
            pass_seconds=so_far.pass_seconds + seconds,
            tokens=so_far.tokens + tokens,
        )
        return logits

    def _take(self, task: Task, logits: Sequence[Tensor], choosing: dict[Task, Choosing]) -> None:
        try:
            taken = task.take(logits, self._store)
        except BaseException as error:  # noqa: BLE001 - see above
            self._fail(task, error)
            return
        if not isinstance(taken, bool):
            choosing[task] = taken
        elif taken:
            self._finish(task)

    def _choose(self, choosing: dict[Task, Choosing]) -> None:
        """Let tasks choose their tokens, in steps that they share; each that ends or fails leaves the others to it."""
        chosen: dict[Task, Sequence[Chosen]] = {}
        while choosing:
            wanted = {task: self._go_on(task, choosing, chosen.pop(task, None)) for task in list(choosing)}
            results = iter(choose([one for asked in wanted.values() for one in asked]))
            for task, asked in wanted.items():
                mine = list(islice(results, len(asked)))
                error = next((one for one in mine if isinstance(one, BaseException)), None)
                if error is None:
                    chosen[task] = [one for one in mine if isinstance(one, Chosen)]
                else:
                    choosing.pop(task).close()
                    self._fail(task, error)

    def _go_on(self, task: Task, choosing: dict[Task, Choosing], chosen: Sequence[Chosen] | None) -> Sequence[Wanted]:
        """What a task wants of the next step, by what came of the one before it; nothing where it needs no other."""
        try:
            return choosing[task].send(chosen)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            del choosing[task]
            if end.value:
                self._finish(task)
        except BaseException as error:  # noqa: BLE001 - see above
            del choosing[task]
            self._fail(task, error)
        return ()

    def _finish(self, task: Task) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        try:
            task.finish(self._store)
        except BaseException as error:  # noqa: BLE001 - see above
            self._fail(task, error)
        else:
            self._note()
            task.end(Finished())

    def _fail(self, task: Task, error: BaseException) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        task.let_go()
        self._note()
        task.end(Failed(error))

    def _fitted(self, planned: dict[Task, list[Segment]]) -> dict[Task, list[Segment]]:
        """What is planned, without the youngest tasks where there is no memory for all; they wait, and hold none."""
        while True:
            new = sum(len(segment.token_ids) for segments in planned.values() for segment in segments)
            running = self._running
            if self._make_room(running, new):
                return planned
            _logger.debug("The youngest task gives the memory of its rows to others, and goes on later.")
            running[-1].suspend()
            planned.pop(running[-1], None)
            self.stats = replace(self.stats, preemptions=self.stats.preemptions + 1)

    def _resume(self) -> None:
        """Let suspended tasks go on, the oldest first, as far as there is room."""
        for task in [task for task in self._tasks if task.suspended]:
            if not self._make_room([*self._running, task], 0):
                return
            task.suspended = False
            self._prompts.update(dict.fromkeys(task.prompts))
            if self._runner.notices_change():
                self._forget_prompts()

    def _make_room(self, tasks: Sequence[Task], new: int) -> bool:
        """Whether tasks have room for what they hold and are to hold next; others let go of theirs where needed.

        One alone has: it would not have been taken on else.

        Args:
            new: tokens of the next pass; 0 to look further ahead.
        """
        if len(tasks) > 1 and self._demand(tasks, (), new) > self._cache_tokens:
            return False
        busy = {prompt for task in tasks for prompt in task.prompts}
        idle = [prompt for prompt in list(self._prompts) if prompt not in busy and prompt.held_rows]
        while idle and self._demand(tasks, idle, new) > self._cache_tokens:
            prompt = idle.pop()
            _logger.debug("A request between two tasks lends the memory of its rows.")
            prompt.evict()
            del self._prompts[prompt]
            self.stats = replace(self.stats, evictions=self.stats.evictions + 1)
        self._share_memory(new)
        return True

    def _demand(self, tasks: Sequence[Task], idle: Sequence[PromptState], new: int) -> int:
        """Tokens that tasks and requests between two tasks hold, with those of the next pass or of what comes next."""
        rows = {row for task in tasks for row in task.rows} | {row for prompt in idle for row in prompt.held_rows}
        if new:
            return held_tokens(rows) + new
        stored = [piece for task in tasks for piece in task.stored_pieces(self._store)]
        ahead = sum(task.row_count * min(_AHEAD, task.prompt.max_new_tokens) for task in tasks)
        ahead += self._states_to_come(tasks, rows)
        shared = [piece for piece in stored if len(piece) >= TAIL]
        copied = sum(len(piece) for piece in stored if len(piece) < TAIL)
        return held_tokens(rows, shared) + copied + sum(task.unread(self._store) for task in tasks) + ahead

    def _states_to_come(self, tasks: Sequence[Task], rows: Iterable[Row]) -> int:
        """What the states count as that tasks have not made yet, where layers carry any."""
        cost = self._memory.state_cost
        made = len({state for row in rows for state in row.states}) if cost else 0
        to_come = [
            cost.of(prompt.contexts.longest_prompt)
            for task in tasks
            for prompt in task.prompts
            for _ in range(prompt.most_states)
        ]
        return sum(sorted(to_come)[made:])

    def _share_memory(self, new: int) -> None:
        """Leave stored prefixes what rows do not need, now and with so many new tokens."""
        while self._store.tokens and self._memory.tokens + new > self._cache_tokens:
            self._store.evict_oldest()
        if not self._tasks:
            self._memory.slots.give_back()
