"""A request answers in company what it answers alone, whatever the others do; and nothing is left of any of them."""

import asyncio
import gc
import math
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage

from sda_engine import Alignment, Completion, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.decoding.rows import Row
from sda_engine.errors import EvaluationError, NumericalError, SDAError
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user

WORDS = ("the", "quick", "brown", "fox", "jumps", "over a lazy dog", "and asks", "what is", "in the library")
ALIGNMENTS = (
    None,
    "be kind",
    "honesty",
    Alignment(instruction="answer as a poet", name="poet"),
    Alignment(instruction="be polite", avoid="be rude and loud", name="polite"),
    Alignment(avoid="be rude", name="not rude"),
)
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}, "n": {"type": "integer"}}, "required": ["yes"]}
GREEDY = Sampling(temperature=0, max_new_tokens=10)
REQUESTS, CANCELLED = 32, 8
QUICK = range(10)  # of the 100 seeds that we promise

# what none of these may change: how much runs at once, what is kept, how prompts are cut up, what is proposed
SETTINGS = (
    EngineSettings(),
    EngineSettings(proposals=0, prefix_cache=False),
    EngineSettings(max_rows=5, prefill_chunk=7),
    EngineSettings(cache_tokens=1500, prefill_chunk=64),
    EngineSettings(max_rows=20, prefill_chunk=1, proposals=64),
)


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
            lambda: Steering(evaluator=ScriptedEvaluator([score]), accept_score=accept),
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
        return Ask(text, alignment, lambda: plain_steering, sampling, output)
    return Ask(text, alignment, lambda: plain_steering, sampling)


def worker(engine: SteeringEngine):
    return engine._scheduler._worker


def count_rows() -> int:
    gc.collect()
    return sum(type(thing) is Row for thing in gc.get_objects())


def reserved_tokens(engine: SteeringEngine) -> int:
    return worker(engine)._batch._held()


def stored_tokens(engine: SteeringEngine) -> int:
    return worker(engine)._batch._store.tokens


def wait_until_idle(engine: SteeringEngine) -> None:
    """Until the worker has finished what was cancelled."""
    deadline = time.monotonic() + 30
    while worker(engine)._batch.tasks or worker(engine)._waiting or reserved_tokens(engine):
        assert time.monotonic() < deadline, "tasks are left"
        time.sleep(0.001)


def check_nothing_is_left(engine: SteeringEngine) -> None:
    wait_until_idle(engine)
    assert reserved_tokens(engine) == 0
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
    assert together.trace.divergence == pytest.approx(alone.trace.divergence, abs=1e-4)
    assert together.trace.temperature == pytest.approx(alone.trace.temperature, abs=1e-4)
    assert (together.score is None) == (alone.score is None)
    if alone.score is not None and alone.score.value is not None:
        assert together.score.value == pytest.approx(alone.score.value, abs=0.01)
    assert (together.logprobs is None) == (alone.logprobs is None)
    for one, other in zip(together.logprobs or (), alone.logprobs or (), strict=True):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-3)
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


@pytest.mark.parametrize(
    ("architecture", "seeds"),
    [
        ("llama", QUICK),
        ("gemma3", QUICK),
        pytest.param("llama", range(10, 100), marks=pytest.mark.slow),
    ],
)
def test_every_request_answers_in_company_what_it_answers_alone_and_nothing_is_left(architecture, seeds):
    before = count_rows()
    rng = dice(architecture)
    tokenizer = tiny_tokenizer()
    pool = [make_ask(rng, max_words=120, max_new_tokens=40) for _ in range(48)]
    alone = Alone(tiny_model(architecture=architecture), tokenizer)
    engines = [SteeringEngine(tiny_model(architecture=architecture), tokenizer, settings=s) for s in SETTINGS]
    for seed in seeds:
        rng = dice(seed)
        company = Company(engines[seed % len(engines)], rng.sample(pool, REQUESTS), rng, CANCELLED)
        company.run()
        assert company.results.keys() >= set(range(REQUESTS)) - company.cancelled
        for number, completion in company.results.items():
            check_same(completion, alone.answer(company.asks[number]))
        check_nothing_is_left(company.engine)
    for engine in engines:
        engine.close()
    assert count_rows() == before


@pytest.mark.slow
def test_the_real_model_answers_in_company_what_it_answers_alone(smollm2_float32):
    loaded = smollm2_float32
    rng = dice(5)
    asks = [make_ask(rng, max_words=60, max_new_tokens=12) for _ in range(10)]
    asks += [Ask("Where is the library?", "honesty", sampling=Sampling(temperature=0, max_new_tokens=12, logprobs=3))]
    asks += [Ask("Tell me about foxes.", ALIGNMENTS[4], sampling=Sampling(max_new_tokens=12, seed=3))]
    alone = Alone(loaded.model, loaded.tokenizer)
    expected = [alone.answer(ask) for ask in asks]  # before the company: engines of one model take turns here
    for seed in range(3):
        with SteeringEngine(loaded.model, loaded.tokenizer) as engine:
            company = Company(engine, asks, dice(seed), 3)
            company.run()
            for number, completion in company.results.items():
                check_same(completion, expected[number])
            check_nothing_is_left(engine)


def test_a_thousand_closed_streams_leave_no_row_and_no_reserved_token():
    before = count_rows()
    settings = EngineSettings(cache_tokens=4000)
    with SteeringEngine(tiny_model(architecture="gemma3"), tiny_tokenizer(), settings=settings) as engine:
        for number in range(1000):
            sampling = Sampling(max_new_tokens=400, temperature=2.0, top_p=None, seed=number)
            alignment = ALIGNMENTS[number % 3]
            stream = engine.stream(user(f"question {number % 50}"), alignment, sampling=sampling)
            for _ in range(number % 3):
                next(stream)
            stream.close()
        check_nothing_is_left(engine)
        assert count_rows() == before
        assert stored_tokens(engine) <= 2000
        assert engine.generate(user("and now?"), sampling=Sampling(max_new_tokens=3, temperature=0)).token_ids


async def test_a_request_that_is_cancelled_at_any_moment_frees_its_rows_without_the_garbage_collector():
    """At every turn of the event loop, through base response, its score, the evaluator and the steered answer."""
    before = count_rows()
    sampling = Sampling(max_new_tokens=4, temperature=0)
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        outcomes: Counter[bool] = Counter()
        gc.collect()
        gc.disable()
        try:
            for turns in range(150):
                request = engine.agenerate(
                    user("who?"), "be kind", steering=Steering(evaluator=ContrastiveEvaluator()), sampling=sampling
                )
                task = asyncio.create_task(request)
                for _ in range(turns // 3):
                    await asyncio.sleep(0.0002 if turns % 3 else 0)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                outcomes[isinstance(result, Completion)] += 1
                del task, result, request
                wait_until_idle(engine)
        finally:
            gc.enable()
        assert outcomes[False] > 25
        assert count_rows() == before


@pytest.mark.parametrize("evaluator", [ContrastiveEvaluator(), ScriptedEvaluator([50])])
async def test_a_request_that_is_cancelled_before_it_reads_its_base_response_frees_its_rows(evaluator):
    sampling = Sampling(max_new_tokens=4, temperature=0)
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        request = engine.agenerate(user("who?"), "be kind", steering=Steering(evaluator=evaluator), sampling=sampling)
        task = asyncio.create_task(request)
        await asyncio.sleep(0)
        while worker(engine)._batch.tasks or worker(engine)._waiting:
            time.sleep(0.001)  # noqa: ASYNC251 - the event loop stands still while the worker finishes
        assert reserved_tokens(engine), "the rows are kept for the answer"
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert reserved_tokens(engine) == 0
        assert cancelled.value.__traceback__, "which keeps the request alive"


POISON = "z"  # a letter that nobody else uses


async def ask_beside_seven_others(engine: SteeringEngine, poisoned: Ask) -> BaseException:
    """The error of one request; seven more at the same time, and one after it, answer what they answer alone."""
    asks = [Ask(f"question {number}", ALIGNMENTS[number % 5], sampling=GREEDY) for number in range(7)]
    alone = Alone(tiny_model(), tiny_tokenizer())
    for _ in range(3):
        tasks = [engine.agenerate(**ask.arguments()) for ask in (*asks[:3], poisoned, *asks[3:])]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        error = results.pop(3)
        for ask, completion in zip(asks, results, strict=True):
            check_same(completion, alone.answer(ask))
        alignment = poisoned.alignment and poisoned.alignment.replace(POISON, "x")
        begins_alike = Ask(poisoned.text.replace(POISON, "x"), alignment, sampling=GREEDY)
        check_same(await engine.agenerate(**begins_alike.arguments()), alone.answer(begins_alike))
    assert isinstance(error, SDAError)
    check_nothing_is_left(engine)
    return error


@pytest.mark.parametrize("alignment", [None, "be kind", f"be a {POISON}"])
@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA out of memory")])
async def test_a_forward_pass_that_fails_on_one_request_fails_that_one_alone(alignment, error):
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        (poison,) = engine.encode(POISON)

        def fail(module, args, kwargs):
            if (kwargs["input_ids"] == poison).any():
                raise error

        engine.model.register_forward_pre_hook(fail, with_kwargs=True)
        text = "question 3" if alignment and POISON in alignment else f"question 3 {POISON}"
        raised = await ask_beside_seven_others(engine, Ask(text, alignment, sampling=GREEDY))
        assert raised.__cause__ is error


@pytest.mark.parametrize("alignment", [None, "be kind", f"be a {POISON}"])
async def test_nan_in_one_request_fails_that_one_alone_and_is_not_stored(alignment):
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        (poison,) = engine.encode(POISON)
        with torch.no_grad():
            engine.model.model.embed_tokens.weight[poison] = math.nan
        text = "question 3" if alignment and POISON in alignment else f"question 3 {POISON}"
        raised = await ask_beside_seven_others(engine, Ask(text, alignment, sampling=GREEDY))
        assert isinstance(raised, NumericalError)


@pytest.mark.parametrize("stage", ["the evaluator", "the curve", "decoding"])
def test_an_error_that_is_kept_keeps_no_rows(stage):
    before = count_rows()
    errors = []
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        broken = {
            "the evaluator": Steering(evaluator=ScriptedEvaluator([ValueError("no score")])),
            "the curve": Steering(evaluator=ScriptedEvaluator([50]), amplification_curve=lambda score: math.nan),
            "decoding": Steering(temperature_schedule=lambda signals: 1 / 0),
        }[stage]
        for _ in range(3):
            with pytest.raises((EvaluationError, SDAError)) as raised:
                engine.generate(user("who?"), "be kind", steering=broken, sampling=Sampling(max_new_tokens=4))
            errors.append(raised.value)
        check_nothing_is_left(engine)
        assert count_rows() == before
    assert len(errors) == 3


def test_two_engines_on_one_model_at_once_answer_what_each_answers_alone():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    attention = model.config._attn_implementation
    questions = [f"question {number} about foxes and dogs" for number in range(30)]
    sampling = Sampling(temperature=0, max_new_tokens=15)
    with SteeringEngine(model, tokenizer) as one, SteeringEngine(model, tokenizer) as other:
        alone = [one.generate(user(question), "be kind", sampling=sampling).token_ids for question in questions]
        answers: dict[str, list[tuple[int, ...] | Exception]] = {"one": [], "other": []}

        def ask(name: str, engine: SteeringEngine) -> None:
            for question in questions:
                try:
                    answers[name].append(engine.generate(user(question), "be kind", sampling=sampling).token_ids)
                except SDAError as error:
                    answers[name].append(error)

        threads = [threading.Thread(target=ask, args=pair) for pair in (("one", one), ("other", other))]
        with eager_threads():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert answers["one"] == alone
        assert answers["other"] == alone
    assert model.config._attn_implementation == attention


@contextmanager
def eager_threads():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# --- the adapters


@contextmanager
def count_passes(engine: SteeringEngine):
    passes: list[int] = []
    handle = engine.model.register_forward_hook(lambda module, args, output: passes.append(1))
    try:
        yield passes
    finally:
        handle.remove()


@pytest.fixture
def company_engine():
    """No proposals, which would save passes too, and no end of sequence: each answer has all its tokens."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(proposals=0)) as engine:
        yield engine


QUESTIONS = [f"{number}: what is in the library?" for number in range(8)]


def check_shared(passes: list[int], sizes: list[int]) -> None:
    assert sizes == [12] * 8
    assert len(passes) < 48, "8 requests of 12 tokens one after the other take 96 passes and more"


def test_a_langchain_batch_shares_its_passes(company_engine):
    chat = ChatSDA(engine=company_engine, alignment="honesty", temperature=0, max_tokens=12)
    chat.invoke("warm up")
    with count_passes(company_engine) as passes:
        answers = chat.batch(QUESTIONS)
    check_shared(passes, [answer.usage_metadata["output_tokens"] for answer in answers])
    assert [answer.content for answer in answers] == [chat.invoke(question).content for question in QUESTIONS]


async def test_a_langchain_abatch_and_concurrent_ainvoke_share_their_passes(company_engine):
    chat = ChatSDA(engine=company_engine, alignment="honesty", temperature=0, max_tokens=12)
    await chat.ainvoke("warm up")
    with count_passes(company_engine) as passes:
        batch = await chat.abatch(QUESTIONS)
    check_shared(passes, [answer.usage_metadata["output_tokens"] for answer in batch])
    with count_passes(company_engine) as passes:
        answers = await asyncio.gather(*(chat.ainvoke([HumanMessage(question)]) for question in QUESTIONS))
    check_shared(passes, [answer.usage_metadata["output_tokens"] for answer in answers])
    assert [answer.content for answer in answers] == [answer.content for answer in batch]


async def test_concurrent_achats_of_llama_index_share_their_passes(company_engine):
    llm = SDALLM(engine=company_engine, alignment="honesty", temperature=0, max_tokens=12)
    await llm.acomplete("warm up")
    with count_passes(company_engine) as passes:
        chats = [llm.achat([ChatMessage(role="user", content=question)]) for question in QUESTIONS]
        answers = await asyncio.gather(*chats)
    check_shared(passes, [answer.raw["usage"]["completion_tokens"] for answer in answers])
