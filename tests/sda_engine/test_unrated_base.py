"""A base response that is cut off before it says anything gives an evaluator nothing to rate, and says so."""

import pytest

from sda_engine import Output, Sampling, Steering
from sda_engine.errors import EvaluationError
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, call_text
from tests.conftest import user
from tests.families import TEMPLATES

QWEN = TEMPLATES["Qwen 3"][1]
THOUGHT = f"<think>{'so it goes ' * 20}</think>It is."
FEW = Sampling(max_new_tokens=12)
CLOCK = Output(tools=[{"name": "clock", "parameters": {"type": "object", "properties": {}}}])


def ask(engine, evaluator, **settings):
    settings = {"sampling": FEW, **settings}
    steering = Steering(evaluator=evaluator, **settings.pop("steering", {}))
    return engine.generate(user("q"), "honesty", steering=steering, **settings)


@pytest.mark.parametrize("needs_logprobs", [False, True])
def test_a_thought_that_fills_the_tokens_is_an_error_with_the_remedies(needs_logprobs):
    evaluator = ScriptedEvaluator([80], needs_logprobs=needs_logprobs)
    with (
        ScriptedEngine(THOUGHT, chat_template=QWEN) as engine,
        pytest.raises(EvaluationError, match="thought filled all 12 tokens") as raised,
    ):
        ask(engine, evaluator)
    assert "above 12" in str(raised.value)
    assert "enable_thinking" in str(raised.value)
    assert raised.value.base_response == ""
    assert not evaluator.requests


async def test_the_same_for_an_event_loop():
    steering = Steering(evaluator=ScriptedEvaluator([80]))
    with ScriptedEngine(THOUGHT, chat_template=QWEN) as engine, pytest.raises(EvaluationError, match="thought filled"):
        await engine.agenerate(user("q"), "honesty", steering=steering, sampling=FEW)


@pytest.mark.parametrize(("choice", "amplified"), [("instruct_only", False), ("fixed", True)])
def test_it_obeys_on_evaluator_error(choice, amplified):
    with ScriptedEngine(THOUGHT, chat_template=QWEN) as engine:
        done = ask(engine, ScriptedEvaluator([80]), steering={"on_evaluator_error": choice})
    assert done.score.fallback == choice
    assert "thought filled" in done.score.reason
    assert bool(done.amplification) == amplified


def test_a_template_without_the_variable_is_not_told_to_set_it():
    template = QWEN.replace("enable_thinking is defined and enable_thinking is false", "false")
    with (
        ScriptedEngine(THOUGHT, chat_template=template) as engine,
        pytest.raises(EvaluationError, match="max_tokens") as raised,
    ):
        ask(engine, ScriptedEvaluator([80]))
    assert "enable_thinking" not in str(raised.value)


def test_where_the_window_is_the_limit_a_shorter_prompt_is_the_remedy():
    with (
        ScriptedEngine(THOUGHT, chat_template=QWEN, context_window=80) as engine,
        pytest.raises(EvaluationError, match="a shorter prompt"),
    ):
        ask(engine, ScriptedEvaluator([80]), sampling=Sampling(max_new_tokens=500))


def test_a_call_that_is_cut_off_leaves_nothing_to_rate_either():
    with (
        ScriptedEngine(call_text("clock", {})) as engine,
        pytest.raises(EvaluationError, match="beginning of an answer filled all 12 tokens"),
    ):
        ask(engine, ScriptedEvaluator([80]), output=CLOCK)


@pytest.mark.parametrize("text", ["", "<think>hm</think>"])
def test_an_empty_answer_that_ended_by_itself_is_rated(text):
    evaluator = ScriptedEvaluator([80])
    with ScriptedEngine(text, chat_template=QWEN) as engine:
        assert ask(engine, evaluator, sampling=Sampling(max_new_tokens=100)).score.value == 80
    assert evaluator.requests[0].response == ""


def test_what_was_said_before_the_limit_is_rated():
    evaluator = ScriptedEvaluator([80])
    with ScriptedEngine("the library opens at nine every day", chat_template=QWEN) as engine:
        ask(engine, evaluator)
    assert evaluator.requests[0].response
