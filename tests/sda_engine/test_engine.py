import asyncio
import gc
import math
import threading
import time
import weakref

import pytest
import torch

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.decoding.decode_task import DecodeTask
from sda_engine.errors import (
    ConfigError,
    ContextLengthError,
    EngineClosedError,
    EvaluationError,
    MessageError,
    ModelLoadError,
    NumericalError,
    RequestTimeoutError,
    SDAError,
)
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, tiny_engine, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import assert_alike

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind", name="kindness")
SHORT = Sampling(max_new_tokens=12, seed=1)


def test_a_completion_holds_the_answer_and_what_steering_did(engine):
    done = engine.generate(QUESTION, KIND, sampling=SHORT)
    assert len(done.token_ids) == done.usage.completion_tokens == len(done.trace.divergence) <= 12
    assert done.text == engine.tokenizer.decode(
        [token for token in done.token_ids if token != 2], skip_special_tokens=True
    )
    assert all(0 <= divergence <= math.log(2) for divergence in done.trace.divergence)
    assert all(0.6 / math.sqrt(2) - 1e-6 <= temperature <= 0.6 for temperature in done.trace.temperature)
    assert done.finish_reason in ("stop", "length")
    assert done.tool_calls == ()
    assert done.base_response is None
    assert done.usage.prompt_tokens == engine.count_prompt_tokens(QUESTION)
    assert done.trace.alignment == "kindness"


def test_the_default_score_of_50_steers_without_a_base_response(engine):
    done = engine.generate(QUESTION, KIND, sampling=SHORT)
    assert done.score.value == 50
    assert done.amplification == pytest.approx(0.46212, abs=1e-5)
    assert done.trace.strength == pytest.approx(2 * done.amplification)
    assert done.usage.base_response_tokens == 0


def test_strength_zero_is_the_instructed_prompt_alone(engine):
    instructed = engine.generate(user("what is in the library?\nbe kind"), sampling=SHORT)
    steered = engine.generate(
        QUESTION, KIND, steering=Steering(amplification=0, temperature_schedule="constant"), sampling=SHORT
    )
    assert steered.token_ids == instructed.token_ids
    assert steered.score is None
    assert steered.amplification == 0


def test_no_alignment_is_a_plain_answer(engine):
    done = engine.generate(QUESTION, sampling=SHORT)
    assert done.amplification is done.score is done.trace.alignment is None
    assert done.trace.mean_divergence == 0
    assert done.trace.temperature == pytest.approx([0.6] * len(done.token_ids))


def test_the_same_seed_repeats_and_a_different_one_differs(engine):
    def answer(seed):
        return engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=20, seed=seed)).token_ids

    assert answer(5) == answer(5)
    assert len({answer(seed) for seed in range(4)}) == 4
    assert len({answer(None) for _ in range(3)}) > 1


def test_temperature_zero_ignores_the_seed(engine):
    answers = {
        engine.generate(QUESTION, KIND, sampling=Sampling(temperature=0, max_new_tokens=12, seed=seed)).token_ids
        for seed in (1, 2, None)
    }
    assert len(answers) == 1


def test_a_stop_string_ends_the_answer_before_it(engine):
    whole = engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=30, seed=1))
    stop = whole.text[10:13]
    done = engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=30, seed=1, stop=(stop,)))
    assert done.finish_reason == "stop"
    assert done.text == whole.text[: whole.text.index(stop)]
    assert done.usage.completion_tokens < 30


def test_every_end_of_sequence_token_of_the_generation_config_ends_the_answer():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    plain = SteeringEngine(model, tokenizer)
    whole = plain.generate(QUESTION, sampling=Sampling(temperature=0, max_new_tokens=10))
    model.generation_config.eos_token_id = [2, whole.token_ids[3]]
    done = SteeringEngine(model, tokenizer).generate(QUESTION, sampling=Sampling(temperature=0, max_new_tokens=10))
    assert done.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[3]) + 1]
    assert done.finish_reason == "stop"
    assert done.text == tokenizer.decode(done.token_ids[:-1])


def test_the_context_window_ends_the_answer_with_length():
    prompt = tiny_engine().count_prompt_tokens(QUESTION)
    with tiny_engine(context_window=prompt + 15) as engine:
        done = engine.generate(QUESTION, sampling=Sampling(temperature=0, max_new_tokens=100))
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 15)
        with pytest.raises(ContextLengthError, match=str(prompt + 15)):
            engine.generate(QUESTION, "many words more than fit into this window", sampling=SHORT)


def test_logprobs_are_those_of_the_steered_distribution(engine):
    done = engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=6, temperature=0, logprobs=5))
    assert len(done.logprobs) == done.usage.completion_tokens
    for token, entry in zip(done.trace.tokens, done.logprobs, strict=True):
        assert len(entry.top) == 5
        assert entry.chosen.token_id == entry.top[0].token_id == token.token_id
        assert entry.chosen.logprob == entry.top[0].logprob == token.logprob <= 0
        assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)
    assert engine.generate(QUESTION, KIND, sampling=SHORT).logprobs is None


def test_the_trace_shows_the_most_likely_tokens_before_and_after_steering(engine):
    done = engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=4, temperature=0))
    for token in done.trace.tokens:
        for candidates in (token.base, token.instructed, token.steered):
            assert len(candidates) == 3
            assert 1 >= candidates[0].probability >= candidates[1].probability >= candidates[2].probability > 0
    assert done.trace.tokens[0].text in done.trace.to_html()


def test_a_callable_temperature_schedule_is_followed(engine):
    steering = Steering(temperature_schedule=lambda signals: torch.full_like(signals.divergence, 0.25))
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert set(done.trace.temperature) == {0.25}


# --- the score-guided stage


def test_an_evaluator_rates_the_base_response_and_sets_the_amplification(engine):
    evaluator = ScriptedEvaluator([20])
    done = engine.generate(QUESTION, KIND, steering=Steering(evaluator=evaluator), sampling=SHORT)
    plain = engine.generate(QUESTION, sampling=SHORT)
    request = evaluator.requests[0]
    assert done.base_response == request.response == plain.text
    assert done.usage.base_response_tokens == plain.usage.completion_tokens
    assert (request.messages, request.alignment, request.base_logprobs) == (QUESTION, KIND, None)
    assert done.score.value == 20
    assert done.amplification == pytest.approx(0.96403, abs=1e-5)
    fixed = engine.generate(QUESTION, KIND, steering=Steering(amplification=done.amplification), sampling=SHORT)
    assert done.token_ids == fixed.token_ids


def test_the_prompt_is_forwarded_once_for_the_base_response_its_score_and_the_steered_answer(monkeypatch):
    with tiny_engine() as engine:
        forwarded = []
        forward = engine.model.forward

        def count(input_ids, **kwargs):
            forwarded.append(input_ids.shape[0] * input_ids.shape[1])
            return forward(input_ids=input_ids, **kwargs)

        monkeypatch.setattr(engine.model, "forward", count)
        steering = Steering(evaluator=ContrastiveEvaluator())
        done = engine.generate(user("a question of many words " * 20), KIND, steering=steering, sampling=SHORT)
    prompt = done.usage.prompt_tokens
    assert sum(tokens > 0.8 * prompt for tokens in forwarded) == 1
    decoded = done.usage.base_response_tokens + 2 * done.usage.completion_tokens
    scored = 2 * done.usage.base_response_tokens
    assert sum(forwarded) <= prompt + 40 + decoded + scored


def test_an_evaluator_that_needs_no_response_gets_none_decoded(engine):
    evaluator = ScriptedEvaluator([80], needs_response=False)
    done = engine.generate(QUESTION, KIND, steering=Steering(evaluator=evaluator), sampling=SHORT)
    assert evaluator.requests[0].response == ""
    assert done.base_response is None
    assert done.amplification == pytest.approx(0.12435, abs=1e-5)


def test_a_fixed_amplification_asks_no_evaluator(engine):
    evaluator = ScriptedEvaluator([RuntimeError("asked")])
    steering = Steering(evaluator=evaluator).replace(amplification=1.0)
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert (done.amplification, done.score, evaluator.requests) == (1.0, None, [])


def test_log_probabilities_of_the_base_response_are_given_to_who_asks(engine):
    evaluator = ScriptedEvaluator([50], needs_logprobs=True)
    done = engine.generate(QUESTION, KIND, steering=Steering(evaluator=evaluator), sampling=SHORT)
    request = evaluator.requests[0]
    assert request.base_logprobs.shape == request.instructed_logprobs.shape
    assert done.usage.base_response_tokens - request.base_logprobs.numel() in (0, 1)  # 1: the end of sequence
    assert (request.base_logprobs <= 0).all()
    assert not torch.equal(request.base_logprobs, request.instructed_logprobs)


def test_contrastive_evaluation_works_end_to_end(engine):
    done = engine.generate(QUESTION, KIND, steering=Steering(evaluator=ContrastiveEvaluator()), sampling=SHORT)
    assert 0 < done.score.value <= 100
    assert "nats per token" in done.score.reason


def test_a_base_response_that_scores_well_enough_is_the_answer(engine):
    steering = Steering(evaluator=ScriptedEvaluator([90]), accept_score=90.0)
    pieces = list(engine.stream(QUESTION, KIND, steering=steering, sampling=SHORT))
    done = pieces[-1].completion
    assert "".join(piece.text for piece in pieces) == done.text == done.base_response
    assert done.amplification is None
    assert done.usage.base_response_tokens == 0, "they are the answer's, and count once"
    assert done.usage.total_tokens == done.usage.prompt_tokens + len(done.token_ids)
    worse = Steering(evaluator=ScriptedEvaluator([89]), accept_score=90.0)
    assert engine.generate(QUESTION, KIND, steering=worse, sampling=SHORT).amplification > 0


@pytest.mark.parametrize("failure", [EvaluationError("no judge"), KeyError("oops")])
def test_a_failing_evaluator_raises_with_the_base_response(engine, failure):
    steering = Steering(evaluator=ScriptedEvaluator([failure]))
    with pytest.raises(EvaluationError, match="on_evaluator_error='instruct_only'") as raised:
        engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert raised.value.base_response == engine.generate(QUESTION, sampling=SHORT).text
    assert raised.value.__cause__ is failure


@pytest.mark.parametrize(("fallback", "score", "amplification"), [("instruct_only", None, 0.0), ("fixed", 50, 0.46212)])
def test_a_fallback_is_taken_and_recorded(engine, fallback, score, amplification):
    steering = Steering(
        evaluator=ScriptedEvaluator([EvaluationError("no judge")]),
        on_evaluator_error=fallback,
        accept_score=1.0,
    )
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert (done.score.value, done.score.fallback) == (score, fallback)
    assert "no judge" in done.score.reason
    assert done.amplification == pytest.approx(amplification, abs=1e-5)
    assert done.base_response


@pytest.mark.parametrize("returned", [None, 50, "50"])
def test_an_evaluator_that_returns_no_score_has_failed(engine, returned):
    class Odd(FixedScore):
        def evaluate(self, request):
            return returned

    with pytest.raises(EvaluationError, match="in place of a Score"):
        engine.generate(QUESTION, KIND, steering=Steering(evaluator=Odd()), sampling=SHORT)


# --- streams


def test_the_pieces_of_a_stream_join_to_the_completion(engine):
    sampling = Sampling(max_new_tokens=25, seed=3, logprobs=2)
    pieces = list(engine.stream(QUESTION, KIND, sampling=sampling))
    done = pieces[-1].completion
    assert "".join(piece.text for piece in pieces) == done.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == done.token_ids
    assert tuple(entry for piece in pieces for entry in piece.logprobs) == done.logprobs
    assert [piece.completion for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert_alike(done, engine.generate(QUESTION, KIND, sampling=sampling))


async def test_async_and_sync_give_the_same(engine):
    done = engine.generate(QUESTION, KIND, steering=Steering(evaluator=ScriptedEvaluator([30])), sampling=SHORT)
    steering = Steering(evaluator=ScriptedEvaluator([30]))
    assert (await engine.agenerate(QUESTION, KIND, steering=steering, sampling=SHORT)).text == done.text
    pieces = [piece async for piece in engine.astream(QUESTION, KIND, steering=steering, sampling=SHORT)]
    assert "".join(piece.text for piece in pieces) == done.text
    assert pieces[-1].completion.token_ids == done.token_ids


async def test_many_async_requests_at_once_give_what_each_gives_alone(engine):
    questions = [user(f"question number {number}") for number in range(6)]
    sampling = Sampling(temperature=0, max_new_tokens=8)
    together = await asyncio.gather(*(engine.agenerate(q, KIND, sampling=sampling) for q in questions))
    assert [done.token_ids for done in together] == [
        engine.generate(q, KIND, sampling=sampling).token_ids for q in questions
    ]


async def test_requests_on_one_event_loop_take_turns():
    engine = ScriptedEngine(["the answer to the question is in the library"])
    turns = []

    async def read(name):
        async for _ in engine.astream(QUESTION, KIND):
            turns.append(name)

    await asyncio.gather(read("one"), read("two"))
    assert turns.index("two") < turns.count("one") - 5, "the second waited for the first"
    assert turns.count("one") == turns.count("two") > 15
    engine.close()


def test_many_threads_at_once_give_what_each_gives_alone(engine):
    sampling = Sampling(temperature=0, max_new_tokens=8)
    questions = [user(f"thread {number} <|im_end|>") for number in range(8)]
    alone = [engine.generate(q, KIND, sampling=sampling).token_ids for q in questions]
    results = {}

    def ask(number):
        results[number] = engine.generate(questions[number], KIND, sampling=sampling).token_ids

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[number] for number in range(8)] == alone


def steps_of(monkeypatch):
    """One entry for each forward pass that an answer takes part in."""
    counted = []
    take = DecodeTask.take
    monkeypatch.setattr(DecodeTask, "take", lambda task, *given: counted.append(1) or take(task, *given))
    return counted


def settle(counted):
    before = -1
    while before != len(counted):
        before = len(counted)
        time.sleep(0.1)
    return before


def test_closing_a_stream_stops_the_work_within_a_token(engine, monkeypatch):
    counted = steps_of(monkeypatch)
    stream = engine.stream(QUESTION, KIND, sampling=Sampling(max_new_tokens=1500, temperature=2.0, top_p=1.0, seed=1))
    next(stream)
    stream.close()
    decoded = len(counted)
    assert settle(counted) <= decoded + 1
    assert decoded < 1500
    assert engine.generate(QUESTION, sampling=SHORT).text


async def test_cancelling_an_async_request_stops_the_work(engine, monkeypatch):
    counted = steps_of(monkeypatch)
    sampling = Sampling(max_new_tokens=1500, temperature=2.0, top_p=1.0, seed=1)
    task = asyncio.create_task(engine.agenerate(QUESTION, KIND, sampling=sampling))
    while not counted:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    decoded = len(counted)
    assert settle(counted) <= decoded + 1
    assert decoded < 1500


def test_a_closed_stream_frees_its_caches(engine):
    stream = engine.stream(QUESTION, KIND, sampling=Sampling(max_new_tokens=500))
    next(stream)
    gc.collect()
    prompts = [weakref.ref(stream.gi_frame.f_locals["request"])]
    stream.close()
    del stream
    engine.generate(QUESTION, sampling=SHORT)  # the worker has gone on
    gc.collect()
    assert all(prompt() is None for prompt in prompts)


def test_a_timeout_is_an_error_that_says_what_to_do(engine):
    with pytest.raises(RequestTimeoutError, match="max_new_tokens"):
        engine.generate(QUESTION, KIND, sampling=Sampling(max_new_tokens=1900, temperature=2.0, seed=6), timeout=0.05)
    for wrong in (0, -1, "soon"):
        with pytest.raises(ConfigError, match="seconds above 0"):
            engine.generate(QUESTION, timeout=wrong)


def test_a_closed_engine_ends_what_runs_and_refuses_what_comes():
    engine = tiny_engine()
    stream = engine.stream(QUESTION, KIND, sampling=Sampling(max_new_tokens=1900, temperature=2.0, seed=1))
    text = "".join(next(stream).text for _ in range(5))
    engine.close()
    given = [text]
    with pytest.raises(EngineClosedError, match=r"tokens of the answer\. Ask again") as closed:
        given.extend(piece.text for piece in stream)
    assert closed.value.partial.startswith(text)
    with pytest.raises(EngineClosedError):
        engine.generate(QUESTION)


# --- faults and bad input


def test_a_model_that_gives_nan_fails_its_own_request_and_the_next_succeeds(monkeypatch):
    with tiny_engine() as engine:
        head = engine.model.lm_head.weight
        kept = head.detach().clone()
        with torch.no_grad():
            head[7] = math.nan
        with pytest.raises(NumericalError, match="NaN"):
            engine.generate(QUESTION, KIND, sampling=SHORT)
        with torch.no_grad():
            head.copy_(kept)
        assert engine.generate(QUESTION, KIND, sampling=SHORT).text


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (MessageError, {"messages": []}),
        (MessageError, {"messages": [{"role": "root", "content": "x"}]}),
        (ConfigError, {"alignment": 7}),
        (ConfigError, {"steering": {"gain": 1}}),
        (ConfigError, {"sampling": None}),
    ],
)
def test_bad_input_is_refused_before_any_work_and_by_streams_at_once(engine, error, arguments):
    arguments = {"messages": QUESTION, **arguments}
    for method in (engine.generate, engine.stream, engine.astream):
        with pytest.raises(error) as raised:
            method(**arguments)
        assert isinstance(raised.value, SDAError)


async def test_a_chat_that_is_too_long_is_refused_at_once_and_in_an_event_loop_with_the_first_piece(engine):
    long = user("word " * 3000)
    for method in (engine.generate, engine.stream):
        with pytest.raises(ContextLengthError):
            method(long)
    with pytest.raises(ContextLengthError):
        await anext(engine.astream(long))


@pytest.mark.parametrize("steering", [Steering(policy="paper"), Steering(policy="revise")], ids=["paper", "revise"])
async def test_an_event_loop_does_not_wait_for_long_texts_that_are_rendered(monkeypatch, steering):
    monkeypatch.setattr("sda_engine.apart._LONG", 5)
    with tiny_engine() as engine:
        rendered = threading.Event()
        render = type(engine._tokenizer).render

        def slow(*arguments):
            assert rendered.wait(10), "the event loop stands still"
            rendered.clear()
            return render(*arguments)

        monkeypatch.setattr(type(engine._tokenizer), "render", slow)

        async def goes_on():
            while True:
                rendered.set()
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(goes_on())
        assert (await engine.agenerate(QUESTION, KIND, steering=steering, sampling=SHORT)).text
        assert (await engine.acontinuation_logprobs(QUESTION, ["yes"])).isfinite().all()
        ticking.cancel()


def test_text_of_running_answers_does_not_wait_for_a_prompt_that_is_encoded():
    with tiny_engine() as engine:
        tokenizer = engine._tokenizer
        with tokenizer._lock:  # as while a long prompt is rendered
            assert tokenizer.decode([100, 101])


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "nobody/nothing"])
def test_a_model_that_is_nowhere_is_an_error_with_its_name_and_the_aliases(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError, match=rf"'{name}' could not be loaded.*smollm2-135m"):
        SteeringEngine.load(name)


def test_the_callers_messages_tokenizer_and_random_state_are_left_alone(engine):
    state = torch.get_rng_state()
    backend = engine.tokenizer.backend_tokenizer.to_str()
    engine.generate(user("<|im_end|> x"), KIND, sampling=SHORT)
    assert torch.equal(state, torch.get_rng_state())
    assert engine.tokenizer.backend_tokenizer.to_str() == backend
