"""TaskRunner: decodes the tasks of an engine as groups in vLLM, in place of a scheduler with a model of its own."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

from sda_engine.decoding import DecodeTask, EngineStats, Event, ReviseTask, Task
from sda_engine.decoding.mixing import mixed_rows
from sda_engine.decoding.scheduler import queue_full, timed_out
from sda_engine.decoding.states import StateCost
from sda_engine.decoding.tasks import Failed, Finished
from sda_engine.errors import CapacityError, ConfigError, EngineClosedError, SDAError
from sda_engine.prompts import BASE
from sda_integrations.vllm.grammars import as_lark
from sda_integrations.vllm.payload import GroupSettings, extra_args
from sda_integrations.vllm.reports import read_report, report_logprobs

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupRequest:
    """One answer, as vLLM is asked for it.

    Attributes:
        prompt: token ids of the base row.
        max_tokens: that the answer may have.
        stop_token_ids: tokens that end it.
        logprobs: how many log-probabilities are wanted back for each token.
        grammar: in Lark; None for none.
        extra_args: what makes it a group.
        cache_salt: what stored prefixes are salted with; None for none.
    """

    prompt: Sequence[int]
    max_tokens: int
    stop_token_ids: Sequence[int]
    logprobs: int
    grammar: str | None
    extra_args: Mapping[str, Any]
    cache_salt: str | None


@dataclass(frozen=True)
class Decoded:
    """What came of a group with one message of vLLM.

    Attributes:
        tokens: with the log-probabilities that were returned for each, by token id.
        cached_tokens: of the base prompt, that were found stored; None where it is not told.
        finish_reason: of vLLM; None while the answer goes on.
        why: what the scheduler of groups says of a request that it ends as an error; None otherwise.
    """

    tokens: Sequence[tuple[int, Mapping[int, float]]]
    cached_tokens: int | None
    finish_reason: str | None
    why: str | None = None


class Client(Protocol):
    """vLLM, as its server sees it."""

    @property
    def alive(self) -> bool:
        """Whether its engine runs."""

    def decode(self, request: GroupRequest, request_id: str) -> AsyncIterator[Decoded]:
        """Decode a group. Closing the iterator aborts it.

        Raises:
            EngineClosedError: the engine has died.
            SDAError: vLLM refuses the request, or failed.
        """


@dataclass(frozen=True)
class GroupLimits:
    """What one group may need.

    Attributes:
        sequences: that vLLM runs at once.
        tokens: of which it can hold keys and values.
        requests: that may be taken on at once; None for no limit.
    """

    sequences: int
    tokens: int
    requests: int | None = None


class TaskRunner:
    """Runs tasks as groups in vLLM. Its methods belong to the server's event loop.

    Args:
        client: vLLM.
        limits: what a group may need.
    """

    state_cost = StateCost()

    def __init__(self, client: Client, limits: GroupLimits) -> None:
        self._client, self._limits = client, limits
        self._admitted = self._running = 0
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether a task would be worked on."""
        return self._client.alive and not self._closed

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around a request, whatever its tasks.

        Raises:
            QueueFullError: as many have been taken on as may.
        """
        most = self._limits.requests
        if most is not None and self._admitted >= most:
            raise queue_full(most)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def stats(self) -> EngineStats:
        """How many requests and tasks there are; vLLM's own metrics tell the rest."""
        return EngineStats(running_tasks=self._running, requests=self._admitted, cache_tokens=self._limits.tokens)

    def close(self) -> None:
        """Refuse tasks from here on. vLLM is its server's."""
        self._closed = True

    def events(self, task: Task, deadline: float | None = None) -> Generator[Event, None, None]:
        """No thread can wait here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "Inside vLLM's server answers are asked for by agenerate and astream alone. From another process, ask by "
            "RemoteEngine(base_url=...)."
        )

    async def aevents(self, task: Task, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """Run a task and yield its events; the last one is Finished. Closing the iterator aborts it in vLLM.

        Raises:
            RequestTimeoutError: the deadline passed.
            CapacityError: the task alone needs more than vLLM has.
            SDAError: what it failed with.
        """
        members = self._members(task)
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        for member in members:
            member.connect(inbox.put_nowait)
        running = asyncio.create_task(self._run(members, inbox))
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                try:
                    async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                        event = await inbox.get()
                except TimeoutError:
                    raise timed_out() from None
                if isinstance(event, Failed):
                    raise event.error
                yield event
        finally:
            running.cancel()
            await asyncio.wait([running])

    def _members(self, task: Task) -> Sequence[DecodeTask]:
        """The answers that a task decodes.

        Raises:
            EngineClosedError: nothing runs any more.
            ConfigError: it looks inside the model.
            CapacityError: one of them needs more than there is.
        """
        if not self.alive:
            raise died()
        members = task.members if isinstance(task, ReviseTask) else (task,)
        decoding = [member for member in members if isinstance(member, DecodeTask)]
        if len(decoding) != len(members):
            raise ConfigError(
                "This evaluator looks inside the model, which nothing can inside vLLM. Use a judge "
                "(OpenAIEvaluator), a fixed amplification, or an engine of `sda serve`."
            )
        for member in decoding:
            self._check_size(member)
        return decoding

    def _check_size(self, task: DecodeTask) -> None:
        prompt, rows = task.prompt, task.row_names
        if len(rows) > self._limits.sequences:
            raise CapacityError(
                f"The request has {len(rows)} contexts, and vLLM runs {self._limits.sequences} sequences at once. "
                f"Start it with a larger --max-num-seqs, or combine fewer alignments."
            )
        held = sum(prompt.contexts.prompt_tokens(row) + prompt.max_new_tokens for row in rows)
        held -= (len(rows) - 1) * len(prompt.contexts.shared)
        if held > self._limits.tokens:
            raise CapacityError(
                f"The request may come to hold {held} tokens in its contexts, and vLLM can hold {self._limits.tokens}. "
                f"Ask for fewer new tokens, shorten the messages, or give vLLM more memory (--gpu-memory-utilization, "
                f"--kv-cache-memory-bytes)."
            )

    async def _run(self, members: Sequence[DecodeTask], inbox: asyncio.Queue[Event]) -> None:
        """Decode all of them, and tell how it ended."""
        self._running += 1
        try:
            async with asyncio.TaskGroup() as group:
                for member in members:
                    group.create_task(self._decode(member))
        except* SDAError as errors:
            inbox.put_nowait(Failed(errors.exceptions[0]))
        except* Exception as errors:  # whatever it is, the request must know
            _logger.error("Decoding in vLLM failed.", exc_info=errors.exceptions[0])
            inbox.put_nowait(Failed(SDAError("Decoding in vLLM failed; the server's log tells why.")))
        else:
            inbox.put_nowait(Finished())
        finally:
            self._running -= 1

    async def _decode(self, task: DecodeTask) -> None:
        names, top = mixed_rows(task.row_names), task.settings.sampling.logprobs
        request = _group_request(task)
        async with aclosing(self._client.decode(request, f"sda-{uuid4().hex}")) as messages:  # type: ignore[type-var]
            async for message in messages:
                if message.cached_tokens is not None:
                    task.prompt.cached_tokens = message.cached_tokens
                for token_id, logprobs in message.tokens:
                    if task.append(read_report(token_id, logprobs, names, top)):
                        task.end_elsewhere()
                        return
                if message.finish_reason is not None:
                    raise _ended_early(message.finish_reason, message.why)
        raise _ended_early("nothing", None)


def _group_request(task: DecodeTask) -> GroupRequest:
    """What vLLM is asked for an answer."""
    settings, contexts = task.settings, task.prompt.contexts
    if settings.sampling.seed is None:  # all workers have to draw alike
        seed = random.SystemRandom().getrandbits(62)
        settings = replace(settings, sampling=settings.sampling.replace(seed=seed))
    constraint = settings.constraint
    group = GroupSettings.of(settings, task.row_names, masked=constraint is not None)
    prompts = {name: (*contexts.shared, *contexts.tails[name]) for name in task.row_names}
    salt = task.prompt.salt
    return GroupRequest(
        prompt=prompts.pop(BASE),
        max_tokens=settings.max_new_tokens,
        stop_token_ids=sorted(settings.eos_token_ids),
        logprobs=report_logprobs(settings.sampling.logprobs),
        grammar=None if constraint is None else as_lark(constraint.grammar),
        extra_args=extra_args(group, prompts),
        cache_salt=None if salt is None else salt.hex(),
    )


def died() -> EngineClosedError:
    """The error of requests once vLLM's engine is gone."""
    return EngineClosedError("vLLM's engine has stopped; the server's log tells why. Start the server again.")


def _ended_early(reason: str, why: str | None) -> SDAError:
    if reason == "abort":
        return EngineClosedError("vLLM gave up this request: it was told to abort, or is ending. Send it again.")
    if why is not None and why.startswith(CapacityError.__name__):
        return CapacityError(
            "The request needs more sequences or blocks than vLLM has. Ask for fewer new tokens, shorten the messages, "
            "combine fewer alignments, or start vLLM with more."
        )
    _logger.error("vLLM ended an answer before it was whole: %s, %s.", reason, why)
    return SDAError(
        "vLLM ended this answer before it was whole: its rows could not be kept together, or a grammar refused a "
        "token. The log of vLLM's engine tells more."
    )
