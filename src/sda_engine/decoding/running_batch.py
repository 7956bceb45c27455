"""The running batch: tasks that go through the same forward passes, and join and leave between them."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from weakref import WeakKeyDictionary

from torch import Tensor

from sda_engine.decoding.attention import Segment
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.stats import BatchStats
from sda_engine.decoding.step_batch import Chosen, Wanted, choose
from sda_engine.decoding.tasks import Choosing, Failed, Finished, PassLimits, Task
from sda_engine.engine_settings import EngineSettings

_logger = logging.getLogger(__name__)

_ALONE = 1024  # tokens of a prompt in one pass where nobody waits for it
_SHARE_OF_OLDEST = 4  # of a pass, one in so many prompt tokens is the oldest prompt's
_MOST_VERIFIED = 16  # tokens of a pass up to which proposing more of them is worth a thought


class RunningBatch:
    """Runs tasks together, one forward pass at a time. The worker thread alone touches it.

    Decoding tasks take part in every pass. Prompts are prefilled in pieces, small ones while others decode: first the
    shortest, since it ends soonest, with a share for the oldest, which might never get its turn. A task that fails
    leaves the others as they are.

    Args:
        runner: runs the model.
        settings: how much runs at once.
        cache_tokens: tokens whose keys and values may be held, those of stored prefixes included.

    Attributes:
        stats: numbers after the last pass; any thread may read them.
    """

    def __init__(self, runner: ModelRunner, settings: EngineSettings, cache_tokens: int) -> None:
        self._runner = runner
        self._settings = settings
        self._cache_tokens = cache_tokens
        self._most_stored = cache_tokens // 2 if settings.prefix_cache else 0
        self._store = PrefixStore(self._most_stored)
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
        rows = sum(running.row_count for running in self._tasks)
        if self._tasks and rows + task.row_count > self._settings.max_rows:
            return False
        new = sum(prompt.tokens for prompt in task.prompts if prompt not in self._prompts)
        wanted = self._held() + new - self._cache_tokens if new else 0
        busy = {prompt for running in (*self._tasks, task) for prompt in running.prompts}
        idle = [prompt for prompt in reversed(list(self._prompts)) if prompt not in busy]
        if wanted > sum(prompt.tokens for prompt in idle):
            return False
        for prompt in idle:
            if wanted <= 0:
                break
            wanted -= prompt.tokens
            _logger.debug("A request between two tasks lends the memory of %d tokens.", prompt.tokens)
            prompt.evict()
            del self._prompts[prompt]
            self.stats = replace(self.stats, evictions=self.stats.evictions + 1)
        return True

    def add(self, task: Task) -> None:
        """Let a task take part from the next pass on; stored prefixes make room for its rows."""
        if not all(prompt in self._prompts for prompt in task.prompts) and self._runner.notices_change():
            self._forget_prompts()
        self._prompts.update(dict.fromkeys(task.prompts))
        self._tasks.append(task)
        self._share_memory()

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

    def step(self) -> None:
        """One forward pass over everything that wants one, and what follows from it for each task."""
        for task in [task for task in self._tasks if task.cancelled]:
            self._finish(task)
        logits = self._forward(self._plan())
        choosing: dict[Task, Choosing] = {}
        for task in list(logits):  # this frame must hold no rows or logits: a kept exception of a task keeps it alive
            self._take(task, logits.pop(task), choosing)
        self._choose(choosing)
        self._share_memory()
        self._note()

    def _note(self) -> None:
        """Note what is held now; before a task tells its end, so that who waits for it finds it counted."""
        self.stats = replace(
            self.stats,
            running_tasks=len(self._tasks),
            rows=sum(task.row_count for task in self._tasks),
            held_tokens=self._held(),
            stored_tokens=self._store.tokens,
            reused_tokens=self._store.read_tokens,
        )

    def _forget_prompts(self) -> None:
        """Neither what is stored nor what requests have computed so far may begin a prompt from here on."""
        self._store.clear()
        for prompt in self._prompts:
            prompt.spoilt = True

    def _plan(self) -> dict[Task, list[Segment]]:
        decoding = [task for task in self._tasks if not task.in_bulk]
        reading = [task for task in self._tasks if task.in_bulk]
        rows = sum(task.row_count for task in decoding)
        proposals = min(self._settings.proposals, max(0, _MOST_VERIFIED // max(rows, 1) - 1))
        planned: dict[Task, list[Segment]] = {}
        for task in decoding:
            self._plan_task(task, PassLimits(0, proposals), planned)
        left = self._settings.prefill_chunk if decoding else max(_ALONE, self._settings.prefill_chunk)
        kept = left // _SHARE_OF_OLDEST
        for task in sorted(reading, key=lambda task: task.unread):
            kept = 0 if task is reading[0] else kept
            self._plan_task(task, PassLimits(max(0, left - kept), proposals), planned)
            left -= sum(len(segment.token_ids) for segment in planned.get(task, ()))
        return planned

    def _plan_task(self, task: Task, limits: PassLimits, planned: dict[Task, list[Segment]]) -> None:
        try:
            planned[task] = task.plan(limits, self._store)
        except BaseException as error:  # noqa: BLE001 - a user's code may raise SystemExit: not for the others
            self._fail(task, error)

    def _forward(self, planned: Mapping[Task, list[Segment]]) -> dict[Task, list[Tensor]]:
        """Run what is planned in one pass, or else each task in one of its own; tasks that fail are left out."""
        if not any(planned.values()):
            return {task: [] for task in planned}
        try:
            logits = iter(self._run([segment for segments in planned.values() for segment in segments]))
        except BaseException as error:  # noqa: BLE001 - out of memory, a hook of the user's: whatever it is
            if len(planned) > 1:
                return {task: alone for task in planned for alone in self._forward({task: planned[task]}).values()}
            self._fail(next(iter(planned)), error)
            return {}
        return {task: [next(logits) for _ in segments] for task, segments in planned.items()}

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

    def _share_memory(self) -> None:
        """Leave stored prefixes what the rows of requests do not need."""
        self._store.resize(max(0, min(self._most_stored, self._cache_tokens - self._held())))

    def _held(self) -> int:
        """Tokens that the rows of all requests may come to hold."""
        return sum(prompt.tokens for prompt in self._prompts)
