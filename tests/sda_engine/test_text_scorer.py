"""Texts that are given, scored in company with all that runs, against what transformers computes by itself."""

import asyncio
import time

import pytest
import torch

from sda_engine import Alignment, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.decoding.score_task import ScoreTask
from sda_engine.errors import (
    CapacityError,
    ConfigError,
    ContextLengthError,
    EngineClosedError,
    EvaluationError,
    MessageError,
    QueueFullError,
    RequestTimeoutError,
)
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB, SCORE
from tests.sda_engine.decoding.company import (
    ALIGNMENTS,
    Ask,
    check_nothing_is_left,
    check_same,
    count_rows,
    held_tokens,
)

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind", name="kind")
GREEDY = Sampling(temperature=0, max_new_tokens=10)
ENDLESS = Sampling(temperature=2.0, top_p=None, seed=1, max_new_tokens=1500)
TEXTS = ["e", "the answer", " the quick brown fox jumps over the lazy dog", "<|im_end|>", "é\n"]
LONGEST = 20  # tokens of these, at least
ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma3"])


@torch.inference_mode()
def logprobs_by_transformers(model, messages, text) -> torch.Tensor:
    """(tokens,) nats of a text as the beginning of an answer, in one plain pass."""
    tokenizer = tiny_tokenizer()
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), dim=-1)
    return logprobs.gather(-1, torch.tensor(answer).unsqueeze(-1)).squeeze(-1)


def sums_by_transformers(model, messages, texts) -> torch.Tensor:
    return torch.stack([logprobs_by_transformers(model, messages, text).sum() for text in texts])


@pytest.fixture
def endless():
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(max_requests=3)) as engine:
        yield engine


# --- what is computed


@ARCHITECTURES
@pytest.mark.parametrize("settings", [EngineSettings(), EngineSettings(prefill_chunk=1, prefix_cache=False)])
def test_each_number_is_the_sum_that_transformers_gives(architecture, settings):
    model = tiny_model(architecture=architecture)
    expected = sums_by_transformers(model, QUESTION, TEXTS)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        got = engine.continuation_logprobs(QUESTION, TEXTS)
        assert got.dtype == torch.float32
        assert got.shape == (len(TEXTS),)
        torch.testing.assert_close(got, expected, atol=LONGEST * LOGPROB, rtol=0)
        for place, text in enumerate(TEXTS):  # by itself, and from the store
            alone = engine.continuation_logprobs(QUESTION, [text])
            torch.testing.assert_close(alone, expected[place : place + 1], atol=LONGEST * LOGPROB, rtol=0)


def test_a_conversation_and_a_text_longer_than_a_pass_are_scored_right():
    model = tiny_model()
    messages = [{"role": "system", "content": "S"}, *user("one"), {"role": "assistant", "content": "two"}, *user("3")]
    texts = ["the quick brown fox " * 50]
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(prefill_chunk=7)) as engine:
        got = engine.continuation_logprobs(messages, texts)
        torch.testing.assert_close(got, sums_by_transformers(model, messages, texts), atol=500 * LOGPROB, rtol=0)


def test_the_probabilities_of_all_first_tokens_sum_to_one(engine):
    tokenizer = tiny_tokenizer()
    singles = [tokenizer.decode([token_id]) for token_id in range(3, 320)]
    singles = [text for text in singles if "\ufffd" not in text and len(engine.encode(text)) == 1]
    logprobs = engine.continuation_logprobs(QUESTION, singles)
    assert len(singles) > 100
    assert float(logprobs.exp().sum()) < 1.0 + LOGPROB
    greedy = engine.generate(QUESTION, sampling=Sampling(temperature=0, max_new_tokens=1, logprobs=1))
    likeliest = singles[int(logprobs.argmax())]
    assert greedy.text == likeliest
    assert float(logprobs.max()) == pytest.approx(greedy.logprobs[0].chosen.logprob, abs=LOGPROB)


def test_the_prompt_is_computed_once_and_a_text_of_one_token_costs_nothing_more():
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(prefix_cache=False)) as engine:
        tokens: list[int] = []
        engine.model.register_forward_pre_hook(
            lambda module, args, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
        )
        letters = [chr(97 + number) for number in range(10)]
        engine.continuation_logprobs(QUESTION, letters)
        assert tokens == [engine.count_prompt_tokens(QUESTION)]
        engine.continuation_logprobs(QUESTION, ["the answer"])
        assert sum(tokens[1:]) == tokens[0] + len(engine.encode("the answer")) - 1


def test_what_was_scored_is_read_from_the_store_and_changes_no_answer():
    with (
        SteeringEngine(tiny_model(), tiny_tokenizer()) as engine,
        SteeringEngine(tiny_model(), tiny_tokenizer()) as other,
    ):
        engine.continuation_logprobs(QUESTION, ["the answer"])
        done = engine.generate(QUESTION, sampling=GREEDY)
        assert done.usage.cached_prompt_tokens == done.usage.prompt_tokens - 1
        assert done.token_ids == other.generate(QUESTION, sampling=GREEDY).token_ids


async def test_texts_are_scored_in_company_as_they_are_alone(engine):
    questions = [user(f"question {number}") for number in range(6)]
    expected = [sums_by_transformers(engine.model, question, TEXTS) for question in questions]
    asks = [Ask(f"question {number}", ALIGNMENTS[number % 5], sampling=GREEDY) for number in range(6)]
    alone = [engine.generate(**ask.arguments()) for ask in asks]
    *scores, answers = await asyncio.gather(
        *(engine.acontinuation_logprobs(question, TEXTS) for question in questions),
        asyncio.gather(*(engine.agenerate(**ask.arguments()) for ask in asks)),
    )
    for got, wanted in zip(scores, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=LONGEST * LOGPROB, rtol=0)
    for answer, wanted in zip(answers, alone, strict=True):
        check_same(answer, wanted)


# --- what is refused


@pytest.mark.parametrize("continuations", ["yes", [], [""], ["yes", ""], ["yes", 3], None, 7])
def test_what_is_no_list_of_texts_is_refused(engine, continuations):
    with pytest.raises(ConfigError, match=r"at least one text.*\['yes', 'no'\]"):
        engine.continuation_logprobs(QUESTION, continuations)


def test_malformed_messages_are_refused(engine):
    with pytest.raises(MessageError):
        engine.continuation_logprobs([], ["yes"])
    with pytest.raises(MessageError):
        engine.rate([{"role": "root", "content": "x"}], "yes", "honesty", ContrastiveEvaluator())


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_timeout_that_is_no_time_is_refused(engine, timeout):
    with pytest.raises(ConfigError, match="seconds above 0"):
        engine.continuation_logprobs(QUESTION, ["yes"], timeout=timeout)
    with pytest.raises(ConfigError, match="seconds above 0"):
        engine.rate(QUESTION, "yes", "honesty", FixedScore(50), timeout=timeout)


def test_prompt_and_text_have_to_fit_into_the_context_window():
    with SteeringEngine(tiny_model(context_window=64), tiny_tokenizer()) as engine:
        room = 64 - engine.count_prompt_tokens(QUESTION)
        engine.continuation_logprobs(QUESTION, ["Z" * room])
        for texts in (["Z" * (room + 1)], ["e", "Z" * (room + 1)]):
            with pytest.raises(ContextLengthError) as raised:
                engine.continuation_logprobs(QUESTION, texts)
            assert (raised.value.prompt_tokens, raised.value.context_window) == (65, 64)
        with pytest.raises(ContextLengthError):
            engine.rate(QUESTION, "Z" * room, KIND, ContrastiveEvaluator())
        check_nothing_is_left(engine)


def test_a_text_that_needs_more_memory_than_there_is_is_refused():
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(cache_tokens=100)) as engine:
        with pytest.raises(CapacityError):
            engine.continuation_logprobs(QUESTION, ["Z" * 200])
        assert engine.continuation_logprobs(QUESTION, ["Z"]).isfinite().all()


def test_a_full_queue_and_a_closed_engine_refuse():
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(max_requests=1)) as engine:
        stream = engine.stream(QUESTION, sampling=ENDLESS)
        next(stream)
        with pytest.raises(QueueFullError):
            engine.continuation_logprobs(QUESTION, ["yes"])
        stream.close()
    with pytest.raises(EngineClosedError):
        engine.continuation_logprobs(QUESTION, ["yes"])


# --- what is given up


def test_rows_are_released_after_every_end(endless):
    before = count_rows()
    endless.continuation_logprobs(QUESTION, TEXTS)
    endless.rate(QUESTION, "the answer", KIND, ContrastiveEvaluator())
    with pytest.raises(EvaluationError):
        endless.rate(QUESTION, "the answer", Alignment(avoid="be rude"), ContrastiveEvaluator())
    assert held_tokens(endless) == 0
    check_nothing_is_left(endless)
    assert count_rows() == before


@pytest.fixture
def slow(endless):
    """An engine that takes a hundredth of a second for a pass, and reads a token in each."""
    model = endless.model
    model.register_forward_hook(lambda *_: time.sleep(0.01))
    settings = EngineSettings(prefill_chunk=1, prefix_cache=False)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        yield engine


LONG = ["the quick brown fox " * 100] * 20


def test_a_deadline_ends_the_work(slow):
    before = count_rows()
    with slow_stream(slow):
        start = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            slow.continuation_logprobs(QUESTION, LONG, timeout=0.1)
        with pytest.raises(RequestTimeoutError):
            slow.rate(QUESTION, LONG[0], KIND, ContrastiveEvaluator(), timeout=0.1)
        assert time.monotonic() - start < 5
    check_nothing_is_left(slow)
    assert count_rows() == before


class slow_stream:  # noqa: N801 - a context manager
    """An answer that is being decoded meanwhile, so that prompts are read in small pieces."""

    def __init__(self, engine):
        self._stream = engine.stream(QUESTION, sampling=ENDLESS)

    def __enter__(self):
        next(self._stream)

    def __exit__(self, *_):
        self._stream.close()


@pytest.mark.parametrize("patience", [0, 0.005, 0.05, 0.2])
async def test_cancelling_the_task_ends_the_work_and_frees_the_rows(slow, patience):
    before = count_rows()
    with slow_stream(slow):
        for asked in (
            slow.acontinuation_logprobs(QUESTION, LONG),
            slow.arate(QUESTION, LONG[0], KIND, ContrastiveEvaluator()),
        ):
            task = asyncio.create_task(asked)
            await asyncio.sleep(patience)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    check_nothing_is_left(slow)
    assert count_rows() == before


def test_an_exception_in_one_score_fails_that_one_alone(engine, monkeypatch):
    expected = engine.continuation_logprobs(QUESTION, ["yes"])
    with monkeypatch.context() as patched:
        patched.setattr(ScoreTask, "_take", lambda task, logits: 1 / 0)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            engine.continuation_logprobs(QUESTION, ["yes"])
    torch.testing.assert_close(engine.continuation_logprobs(QUESTION, ["yes"]), expected, atol=3 * LOGPROB, rtol=0)
    check_nothing_is_left(engine)


# --- rating a response that is given


@ARCHITECTURES
@pytest.mark.parametrize("placement", ["after_query", "system"])
def test_a_rating_is_the_score_that_generating_the_same_response_gets(architecture, placement):
    with SteeringEngine(tiny_model(architecture=architecture), tiny_tokenizer()) as engine:
        evaluator = ContrastiveEvaluator()
        alike = 0
        for number in range(60):
            steering = Steering(evaluator=evaluator, placement=placement)
            question = user(f"question {number}")
            sampling = Sampling(max_new_tokens=3, seed=number)
            base = engine.generate(question, sampling=sampling)
            if not base.text.strip() or engine.encode(base.text) != [token for token in base.token_ids if token != 2]:
                continue  # nothing to rate, or the same text in other tokens, which is another response to the model
            done = engine.generate(question, KIND, steering=steering, sampling=sampling)
            alike += 1
            rating = engine.rate(question, done.base_response, KIND, evaluator, placement=placement)
            assert rating.value == pytest.approx(done.score.value, abs=SCORE)
            assert rating.evaluator == done.score.evaluator
            if alike == 3:
                return
        pytest.fail("too few responses are alike")


def test_the_logprobs_of_a_rated_response_are_those_of_transformers(engine):
    evaluator = ScriptedEvaluator([70], needs_logprobs=True)
    score = engine.rate(QUESTION, "the answer", KIND, evaluator)
    assert score.value == 70
    (request,) = evaluator.requests
    assert (request.messages, request.response, request.alignment) == (QUESTION, "the answer", KIND)
    base = logprobs_by_transformers(engine.model, QUESTION, "the answer")
    instructed = logprobs_by_transformers(engine.model, user("what is in the library?\nbe kind"), "the answer")
    torch.testing.assert_close(request.base_logprobs, base, atol=LOGPROB, rtol=0)
    torch.testing.assert_close(request.instructed_logprobs, instructed, atol=LOGPROB, rtol=0)


def test_an_evaluator_that_asks_for_nothing_costs_no_pass(engine):
    passes: list[int] = []
    hook = engine.model.register_forward_pre_hook(lambda *_: passes.append(1))
    evaluator = ScriptedEvaluator([70])
    assert engine.rate(QUESTION, "the answer", "honesty", evaluator).value == 70
    assert evaluator.requests[0].base_logprobs is None
    assert passes == []
    hook.remove()


async def test_ratings_on_an_event_loop_are_the_same(engine):
    expected = engine.rate(QUESTION, "the answer", KIND, ContrastiveEvaluator())
    ratings = await asyncio.gather(
        *(engine.arate(QUESTION, "the answer", KIND, ContrastiveEvaluator()) for _ in range(5))
    )
    for rating in ratings:
        assert rating.value == pytest.approx(expected.value, abs=SCORE)


def test_a_rating_is_for_something_and_its_evaluators_errors_pass_through(engine):
    with pytest.raises(ConfigError, match="alignment=None"):
        engine.rate(QUESTION, "yes", None, FixedScore(50))
    failure = EvaluationError("no judge")
    with pytest.raises(EvaluationError) as raised:
        engine.rate(QUESTION, "yes", "honesty", ScriptedEvaluator([failure]))
    assert raised.value is failure
    with pytest.raises(EvaluationError, match="empty"):
        engine.rate(QUESTION, "", KIND, ContrastiveEvaluator())
