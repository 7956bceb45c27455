"""What an engine tells of itself in numbers."""

import json
import logging

import pytest

from sda_engine import EngineSettings, EngineStats, Sampling, Steering, SteeringEngine
from sda_engine.testing import ScriptedEvaluator, tiny_engine, tiny_model, tiny_tokenizer
from tests.conftest import user

SHORT = Sampling(temperature=0, max_new_tokens=6)


@pytest.fixture
def engine():
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(proposals=0, cache_tokens=1000)) as engine:
        yield engine


def test_an_engine_that_was_asked_nothing_has_done_nothing():
    with tiny_engine() as engine:
        told = engine.stats()
        assert told == EngineStats(cache_tokens=told.cache_tokens)
        assert told.cache_tokens > 0


def test_passes_and_tokens_are_counted_and_what_was_stored_is_told(engine):
    done = engine.generate(user("who?"), sampling=SHORT)
    first = engine.stats()
    prompt = done.usage.prompt_tokens
    assert (first.passes, first.tokens, first.reused_tokens) == (6, prompt + 5, 0)
    assert first.pass_seconds > 0
    assert (first.requests, first.running_tasks, first.rows, first.waiting_tasks) == (0, 0, 0, 0)
    assert 0 < first.stored_tokens <= prompt + 6
    engine.generate(user("who?"), sampling=SHORT)
    second = engine.stats()
    assert second.reused_tokens == prompt - 1  # the last token is forwarded for its logits
    assert second.tokens == first.tokens + 1 + 5
    assert json.loads(json.dumps(second.as_json())) == second.as_json()


def test_what_runs_is_told_while_it_runs(engine):
    stream = engine.stream(user("who?"), "be kind", sampling=Sampling(temperature=0, max_new_tokens=400))
    next(stream)
    told = engine.stats()
    assert (told.requests, told.running_tasks, told.rows) == (1, 1, 2)
    assert told.held_tokens >= 2 * engine.count_prompt_tokens(user("who?"))
    stream.close()
    assert engine.stats().requests == 0


def test_a_request_counts_while_it_is_rated_and_lent_memory_is_told(engine):
    seen = []

    class Rates(ScriptedEvaluator):
        def evaluate(self, request):
            seen.append(engine.stats())
            engine.generate(user("fox " * 450), sampling=Sampling(temperature=0, max_new_tokens=3))
            seen.append(engine.stats())
            return super().evaluate(request)

    steering = Steering(evaluator=Rates([20]))
    engine.generate(user("who?"), "be kind", steering=steering, sampling=Sampling(temperature=0, max_new_tokens=100))
    before, after = seen
    assert (before.requests, before.running_tasks, before.evictions) == (1, 0, 0)
    assert before.held_tokens > 100
    assert after.evictions == 1


def test_passes_are_logged_for_those_who_ask(engine, caplog):
    engine.generate(user("who?"), sampling=SHORT)
    assert caplog.text == ""
    caplog.set_level(logging.DEBUG, "sda_engine")
    engine.generate(user("who?"), sampling=SHORT)
    assert caplog.text.count("A pass of 1 rows and 1 tokens took") == 6
