"""A request answers in company what it answers alone, whatever the others do; and nothing is left of any of them."""

import asyncio
import gc
import math
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage

from sda_engine import Completion, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.decoding import running_batch
from sda_engine.errors import EvaluationError, NumericalError, SDAError
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.sda_engine.decoding.company import (
    ALIGNMENTS,
    GREEDY,
    POISON,
    Alone,
    Ask,
    Company,
    ask_beside_seven_others,
    check_nothing_is_left,
    check_same,
    count_rows,
    dice,
    eager_threads,
    held_tokens,
    make_ask,
    stored_tokens,
    wait_until,
    wait_until_idle,
    worker,
)
from tests.sizes import size

REQUESTS, CANCELLED = 32, 8
SEEDS = range(size(100, 6))

# what none of these may change: how much runs at once, what is kept, how prompts are cut up, what is proposed
SETTINGS = (
    EngineSettings(),
    EngineSettings(proposals=0, prefix_cache=False),
    EngineSettings(max_rows=5, prefill_chunk=7),
    EngineSettings(cache_tokens=1500, prefill_chunk=64),
    EngineSettings(max_rows=20, prefill_chunk=1, proposals=64),
    EngineSettings(cache_tokens=560, prefill_chunk=64),  # so little that some have to let go of their rows
)


@pytest.mark.parametrize(
    ("architecture", "seeds"),
    [
        ("llama", SEEDS),  # at least once on each of the engines
        ("gemma3", range(6)),
    ],
)
def test_every_request_answers_in_company_what_it_answers_alone_and_nothing_is_left(architecture, seeds, monkeypatch):
    monkeypatch.setattr(running_batch, "_AHEAD", 1)
    before = count_rows()
    rng = dice(architecture)
    tokenizer = tiny_tokenizer()
    pool = [make_ask(rng, max_words=24, max_new_tokens=24) for _ in range(48)]
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
    asks = [make_ask(rng, max_words=15, max_new_tokens=8) for _ in range(size(6, 2))]
    asks += [Ask("Where is the library?", "honesty", sampling=Sampling(temperature=0, max_new_tokens=8, logprobs=3))]
    asks += [Ask("Tell me about foxes.", ALIGNMENTS[4], sampling=Sampling(max_new_tokens=8, seed=3))]
    alone = Alone(loaded.model, loaded.tokenizer)
    expected = [alone.answer(ask) for ask in asks]  # before the company: engines of one model take turns here
    for seed in range(size(3, 1)):
        with SteeringEngine(loaded.model, loaded.tokenizer) as engine:
            company = Company(engine, asks, dice(seed), 2)
            company.run()
            for number, completion in company.results.items():
                check_same(completion, expected[number])
            check_nothing_is_left(engine)


def test_closed_streams_leave_no_row_and_no_reserved_token():
    before = count_rows()
    settings = EngineSettings(cache_tokens=4000)
    with SteeringEngine(tiny_model(architecture="gemma3"), tiny_tokenizer(), settings=settings) as engine:
        for number in range(size(200, 100)):
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


@pytest.mark.parametrize("long", [2000, 0], ids=["short", "long"])  # long texts are looked through in threads
async def test_a_request_that_is_cancelled_at_any_moment_frees_its_rows_without_the_garbage_collector(
    monkeypatch, long
):
    """At every turn of the event loop, through base response, its score, the evaluator and the steered answer."""
    monkeypatch.setattr("sda_engine.apart._LONG", long)
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
        wait_until(lambda: count_rows() == before)  # the worker may still be on its way out of the last pass


@pytest.mark.parametrize("evaluator", [ContrastiveEvaluator(), ScriptedEvaluator([50])])
async def test_a_request_that_is_cancelled_before_it_reads_its_base_response_frees_its_rows(evaluator):
    sampling = Sampling(max_new_tokens=4, temperature=0)
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        request = engine.agenerate(user("who?"), "be kind", steering=Steering(evaluator=evaluator), sampling=sampling)
        task = asyncio.create_task(request)
        await asyncio.sleep(0)
        while worker(engine)._batch.tasks or worker(engine)._waiting:
            time.sleep(0.001)  # noqa: ASYNC251 - the event loop stands still while the worker finishes
        assert held_tokens(engine), "the rows are kept for the answer"
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert held_tokens(engine) == 0
        assert cancelled.value.__traceback__, "which keeps the request alive"


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
    questions = [f"question {number} about foxes and dogs" for number in range(12)]
    sampling = Sampling(temperature=0, max_new_tokens=10)
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
