"""Requests of all kinds, alone and in company, and how to see that they answer alike and leave nothing behind."""

import asyncio
import gc
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache

import pytest

from sda_engine import Alignment, Completion, Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.decoding.rows import Row
from sda_engine.errors import SDAError
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB, SCORE

WORDS = ("the", "quick", "brown", "fox", "jumps", "over a lazy dog", "and asks", "what is", "in the library")
ALIGNMENTS = (
    None,
    "be kind",
    "honesty",
    Alignment(instruction="answer as a poet", name="poet"),
    Alignment(instruction="be polite", avoid="be rude and loud", name="polite"),
    Alignment(avoid="be rude", name="not rude"),
    Alignment.combine({"be kind": 2.0, "answer as a poet": 1.0}),
    Alignment.combine({"be kind": 1.0, "honesty": 1.0, "be brief": 0.5}, avoid="be rude and loud"),
)


SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}, "n": {"type": "integer"}}, "required": ["yes"]}
GREEDY = Sampling(temperature=0, max_new_tokens=5)


@dataclass
class Ask:
    """One request, and what came of it."""

    text: str
    alignment: Alignment | str | None = None
    steering: Callable[[], Steering] = Steering  # a fresh one each time: an evaluator may have a state
    sampling: Sampling = field(default_factory=Sampling)
    output: Output = field(default_factory=Output)

    def arguments(self) -> dict[str, object]:
        return {
            "messages": user(self.text),
            "alignment": self.alignment,
            "steering": self.steering().fitting(resolve_alignment(self.alignment)),
            "sampling": self.sampling,
            "output": self.output,
        }


def dice(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def make_ask(rng: random.Random, *, max_words: int, max_new_tokens: int) -> Ask:
    """A request of any kind, mostly a short one."""
    size = 1 + int((max_words - 1) * rng.random() ** 3)
    text = " ".join(rng.choices(WORDS, k=size))
    if rng.random() < 0.3:  # something to look up
        text = f"{text} {text} {text}"[: 6 * max_words]
    alignment = rng.choice(ALIGNMENTS)
    sampling = Sampling(
        temperature=rng.choice([0, 0, 0.4, 1.0]),
        top_p=rng.choice([None, 0.95, 0.5]),
        top_k=rng.choice([None, 5]),
        min_p=rng.choice([None, 0.05]),
        seed=rng.randrange(1000),
        max_new_tokens=1 + int(max_new_tokens * rng.random() ** 3),
        stop=rng.choice([(), (), ("e",), ("th", "xyz")]),
        logprobs=rng.choice([None, None, 0, 3]),
    )
    amplification = rng.choice([None, 0.0, 0.3, 1.0])
    plain_steering = Steering(amplification=amplification, placement=rng.choice(["after_query", "system"]))
    score = rng.uniform(1, 100)
    kind = rng.random()
    if kind < 0.2:
        accept = rng.choice([None, 50])
        return Ask(
            text,
            alignment,
            # a base response that is cut off before it says anything is not rated
            lambda: Steering(
                evaluator=ScriptedEvaluator([score]), accept_score=accept, on_evaluator_error="instruct_only"
            ),
            sampling,
        )
    if kind < 0.35:
        return Ask(
            text,
            alignment,
            lambda: Steering(evaluator=ContrastiveEvaluator(), on_evaluator_error="instruct_only"),
            sampling,
        )
    if kind < 0.42:
        output = Output(constraint=Constraint.json_schema(SCHEMA), schema_in_prompt=False)
        scoped = plain_steering.replace(scope=rng.choice(["answer", "calls"]))
        return Ask(text, alignment, lambda: scoped, sampling, output)
    return Ask(text, alignment, lambda: plain_steering, sampling)


def worker(engine: SteeringEngine):
    return engine._scheduler._worker


def count_rows() -> int:
    gc.collect()
    return sum(type(thing) is Row for thing in gc.get_objects())


def held_tokens(engine: SteeringEngine) -> int:
    return worker(engine)._batch._memory.row_tokens


def stored_tokens(engine: SteeringEngine) -> int:
    return worker(engine)._batch._store.tokens


def wait_until(is_so: Callable[[], object], otherwise: str = "it has not come about") -> None:
    """What another thread brings about, half a minute at most."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.001)


def wait_until_idle(engine: SteeringEngine) -> None:
    """Until the worker has finished what was cancelled."""
    batch = worker(engine)._batch
    wait_until(lambda: not (batch.tasks or worker(engine)._waiting or held_tokens(engine)), "tasks are left")


def check_nothing_is_left(engine: SteeringEngine) -> None:
    wait_until_idle(engine)
    assert held_tokens(engine) == 0
    settings = engine._settings
    if not settings.prefix_cache:
        assert stored_tokens(engine) == 0
    elif settings.cache_tokens is not None:
        assert stored_tokens(engine) <= settings.cache_tokens // 2


def check_same(together: Completion, alone: Completion) -> None:
    assert together.token_ids == alone.token_ids
    assert together.text == alone.text
    assert together.finish_reason == alone.finish_reason
    assert together.base_response == alone.base_response
    assert together.trace.divergence == pytest.approx(alone.trace.divergence, abs=LOGPROB)
    assert together.trace.temperature == pytest.approx(alone.trace.temperature, abs=LOGPROB)
    assert (together.score is None) == (alone.score is None)
    if alone.score is not None and alone.score.value is not None:
        assert together.score.value == pytest.approx(alone.score.value, abs=SCORE)
    assert (together.logprobs is None) == (alone.logprobs is None)
    for one, other in zip(together.logprobs or (), alone.logprobs or (), strict=True):
        # after steering and temperature, which multiply what the contexts differ in
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=10 * LOGPROB)
        assert len(one.top) == len(other.top)


class Company:
    """Requests on one engine at once: half of them in threads, half on an event loop, some of them cancelled."""

    def __init__(self, engine: SteeringEngine, asks: list[Ask], rng: random.Random, cancelled: int) -> None:
        self.engine, self.asks = engine, asks
        self.results: dict[int, Completion] = {}
        self.errors: dict[int, BaseException] = {}
        numbers = range(len(asks))
        self.cancelled = set(rng.sample(numbers, cancelled))
        self._in_threads = set(rng.sample(numbers, len(asks) // 2))
        self._patience = {number: rng.choice([0, 0, 1, 2, 5, 10]) for number in numbers}  # pieces, or milliseconds
        self._streams = {number: rng.random() < 0.5 for number in numbers}
        self._delay = {number: rng.choice([0, 0, 0.002, 0.02]) for number in numbers}

    def run(self) -> None:
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in self._in_threads]
        for thread in threads:
            thread.start()
        asyncio.run(self._ask_on_a_loop())
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self.errors, self.errors

    def _ask(self, number: int) -> None:
        time.sleep(self._delay[number])
        try:
            if number in self.cancelled:
                self._break_off(number)
            elif self._streams[number]:
                pieces = list(self.engine.stream(**self.asks[number].arguments()))
                self.results[number] = whole(pieces)
            else:
                self.results[number] = self.engine.generate(**self.asks[number].arguments())
        except Exception as error:  # noqa: BLE001 - the test fails with it
            self.errors[number] = error

    def _break_off(self, number: int) -> None:
        with closing(self.engine.stream(**self.asks[number].arguments())) as stream:
            pieces = [piece for piece, _ in zip(stream, range(self._patience[number]), strict=False)]
        if pieces and pieces[-1].completion is not None:
            self.results[number] = pieces[-1].completion

    async def _ask_on_a_loop(self) -> None:
        numbers = set(range(len(self.asks))) - self._in_threads
        tasks = {number: asyncio.create_task(self._aask(number)) for number in numbers}
        for number in numbers & self.cancelled:
            asyncio.create_task(self._cancel(tasks[number], self._patience[number]))  # noqa: RUF006 - done in time
        done = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number, result in zip(tasks, done, strict=True):
            if isinstance(result, Completion):
                self.results[number] = result
            elif not (number in self.cancelled and isinstance(result, asyncio.CancelledError)):
                self.errors[number] = result

    async def _aask(self, number: int) -> Completion:
        await asyncio.sleep(self._delay[number])
        if self._streams[number]:
            return whole([piece async for piece in self.engine.astream(**self.asks[number].arguments())])
        return await self.engine.agenerate(**self.asks[number].arguments())

    @staticmethod
    async def _cancel(task: asyncio.Task, patience: int) -> None:
        await asyncio.sleep(0.004 * patience)
        task.cancel()


def whole(pieces) -> Completion:
    done = pieces[-1].completion
    assert "".join(piece.text for piece in pieces) == done.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == done.token_ids
    return done


class Alone:
    """What each request answers on an engine that has never seen another; asked once."""

    def __init__(self, model, tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._answers: dict[int, Completion] = {}

    def answer(self, ask: Ask) -> Completion:
        if id(ask) not in self._answers:
            with SteeringEngine(self._model, self._tokenizer) as engine:
                self._answers[id(ask)] = engine.generate(**ask.arguments())
        return self._answers[id(ask)]


@cache
def greedy_alone(text: str, alignment: Alignment | str | None) -> Completion:
    """What a greedy request answers on a tiny engine that has never seen another."""
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        return engine.generate(user(text), alignment, sampling=GREEDY)


POISON = "z"  # a letter that nobody else uses


async def ask_beside_seven_others(engine: SteeringEngine, poisoned: Ask) -> BaseException:
    """The error of one request; seven more at the same time, and one after it, answer what they answer alone."""
    asks = [Ask(f"question {number}", ALIGNMENTS[number % 5], sampling=GREEDY) for number in range(7)]
    for _ in range(2):  # the second time from the prefix store
        tasks = [engine.agenerate(**ask.arguments()) for ask in (*asks[:3], poisoned, *asks[3:])]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        error = results.pop(3)
        for ask, completion in zip(asks, results, strict=True):
            check_same(completion, greedy_alone(ask.text, ask.alignment))
        alignment = poisoned.alignment and poisoned.alignment.replace(POISON, "x")
        begins_alike = Ask(poisoned.text.replace(POISON, "x"), alignment, sampling=GREEDY)
        check_same(
            await engine.agenerate(**begins_alike.arguments()), greedy_alone(begins_alike.text, begins_alike.alignment)
        )
    assert isinstance(error, SDAError)
    check_nothing_is_left(engine)
    return error


@contextmanager
def eager_threads():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
