"""A LangChain chat model as the judge: what it is asked, what counts as its verdict, and what its faults become."""

import asyncio
import pickle
import time

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr, SecretStr
from tenacity import wait_none

from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import EvaluationRequest, Evaluator
from sda_engine.testing import ScriptedEngine, call_text, tiny_engine
from sda_integrations.langchain import ChatModelEvaluator, ChatSDA
from tests.conftest import user

GOOD = '{"reason": "fine", "score": 85}'
RATED = EvaluationRequest(user("2 + 2?"), "It is four.", PRESETS["honesty"])


class Judge(BaseChatModel):
    """A chat model without structured output that answers a script, and keeps what it was asked."""

    api_key: SecretStr = SecretStr("sk-canary-0123456789")
    seconds: float = 0.0
    _script: list = PrivateAttr()
    _asked: list = PrivateAttr(default_factory=list)

    def __init__(self, script, **fields):
        super().__init__(**fields)
        self._script = list(script)

    @property
    def asked(self):
        return self._asked

    @property
    def _llm_type(self):
        return "scripted-judge"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._asked.append(messages)
        time.sleep(self.seconds)
        entry = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(entry, Exception):
            raise entry
        message = entry if isinstance(entry, AIMessage) else AIMessage(entry)
        return ChatResult(generations=[ChatGeneration(message=message)])


class RateLimitError(Exception):
    status_code = 429


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr("sda_engine.evaluators.retries._BACKOFF", wait_none())


def judge(*script, **fields) -> Judge:
    return Judge(script or [GOOD], **fields)


def failure_of(evaluator: ChatModelEvaluator) -> EvaluationError:
    with pytest.raises(EvaluationError) as failure:
        evaluator.evaluate(RATED)
    assert failure.value.base_response == RATED.response
    return failure.value


def test_its_verdict_becomes_the_score_with_reason_and_usage():
    usage = {"input_tokens": 120, "output_tokens": 12, "total_tokens": 132}
    model = judge(AIMessage(GOOD, usage_metadata=usage))
    score = ChatModelEvaluator(model, prices=(2.0, 8.0)).evaluate(RATED)
    assert (score.value, score.reason) == (85.0, "fine")
    assert (score.usage.calls, score.usage.prompt_tokens, score.usage.completion_tokens) == (1, 120, 12)
    assert score.usage.cost == pytest.approx((120 * 2 + 12 * 8) / 1e6)
    system, query = model.asked[0]
    assert (system.type, query.type) == ("system", "human")
    assert PRESETS["honesty"].rating_rubric in system.content
    assert "It is four." in query.content


async def test_the_async_score_is_the_same_and_the_loop_goes_on():
    evaluator = ChatModelEvaluator(judge(seconds=0.3))
    rating = asyncio.ensure_future(evaluator.aevaluate(RATED))
    ticks = 0
    while not rating.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert rating.result().value == 85
    assert ticks > 5


async def test_the_blocking_form_works_inside_a_running_event_loop():
    assert ChatModelEvaluator(judge()).evaluate(RATED).value == 85


def test_several_samples_are_combined_by_their_median():
    model = judge(*(f'{{"reason": "r", "score": {score}}}' for score in (10, 90, 40)))
    score = ChatModelEvaluator(model, samples=3).evaluate(RATED)
    assert score.value == 40
    assert sorted(score.samples) == [10, 40, 90]
    assert score.disagreement == pytest.approx(32.998, abs=1e-3)
    assert score.usage.calls == 3


@pytest.mark.parametrize(
    "reply", ["85", f"Sure! {GOOD}", f"```json\n{GOOD}\n```", '{"score": 85}', '{"reason": "r", "score": 850}', ""]
)
def test_a_reply_that_is_no_verdict_is_asked_for_again_and_then_an_error(reply):
    model = judge(reply)
    error = failure_of(ChatModelEvaluator(model, max_retries=2))
    assert "gave no usable verdict in 3 calls" in str(error)
    assert len(model.asked) == 3
    assert isinstance(error.__cause__, EvaluationError)


def test_a_rate_limit_is_retried():
    model = judge(RateLimitError("slow down"), RateLimitError("slow down"), GOOD)
    score = ChatModelEvaluator(model).evaluate(RATED)
    assert (score.value, score.usage.calls, len(model.asked)) == (85, 3, 3)


@pytest.mark.parametrize("fault", [ValueError("no such model"), RuntimeError("out of memory"), KeyError("choices")])
def test_another_fault_of_the_model_fails_at_once_and_is_chained(fault):
    model = judge(fault)
    error = failure_of(ChatModelEvaluator(model))
    assert len(model.asked) == 1
    assert error.__cause__ is fault
    assert f"failed in 1 call: {type(fault).__name__}" in str(error)


def test_the_deadline_holds_for_a_model_that_hangs():
    start = time.monotonic()
    error = failure_of(ChatModelEvaluator(judge(seconds=4.0), timeout=0.5))
    assert time.monotonic() - start < 3.5
    assert "within timeout=0.5 seconds" in str(error)


def test_five_failures_in_a_row_open_the_breaker():
    model = judge(ValueError("broken"))
    evaluator = ChatModelEvaluator(model)
    for _ in range(5):
        failure_of(evaluator)
    assert "left alone" in str(failure_of(evaluator))
    assert (len(model.asked), evaluator.breaker.state) == (5, "open")


def test_neither_name_nor_errors_show_the_model_s_key():
    model = judge(ValueError("no"))
    evaluator = ChatModelEvaluator(model)
    shown = f"{evaluator!r} {evaluator.name} {failure_of(evaluator)}"
    assert "canary" not in shown
    assert evaluator.name.startswith("ChatModelEvaluator(Judge, settings=")


def test_the_name_tells_models_and_samples_apart():
    names = {
        ChatModelEvaluator(judge()).name,
        ChatModelEvaluator(judge(seconds=0.1)).name,
        ChatModelEvaluator(judge(), samples=3).name,
    }
    assert len(names) == 3
    assert ChatModelEvaluator(judge()).name == ChatModelEvaluator(judge()).name


@pytest.mark.parametrize("model", ["gpt-4.1", None, Judge])
def test_what_is_no_chat_model_is_refused(model):
    with pytest.raises(ConfigError, match="it must be a LangChain chat model"):
        ChatModelEvaluator(model)


# Judges with structured output


def test_a_model_with_structured_output_is_asked_for_the_schema():
    """ChatSDA writes its verdict under a grammar, as a tool call or as text."""
    with ScriptedEngine([GOOD]) as engine:
        score = ChatModelEvaluator(ChatSDA(engine=engine)).evaluate(RATED)
        assert score.value == 85
        assert "reason" in str(engine.requests[0].output)
        assert score.usage.completion_tokens > 0


class CallingJudge(GenericFakeChatModel):
    """A model that gives its verdict by a tool call, as models with function calling do."""

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools)


def calling(*calls: dict, text: str = "") -> ChatModelEvaluator:
    message = AIMessage(text, tool_calls=[{"name": "verdict", "args": args, "id": "1"} for args in calls])
    return ChatModelEvaluator(CallingJudge(messages=iter([message])), max_retries=0)


def test_the_arguments_of_the_one_call_are_the_verdict():
    assert calling({"reason": "fine", "score": 85}, text='{"reason": "x", "score": 1}').evaluate(RATED).value == 85


@pytest.mark.parametrize(
    "calls",
    [
        [{"reason": "fine", "score": 85}, {"reason": "fine", "score": 20}],
        [{"score": 85}],
        [{"reason": "fine", "score": "85"}],
        [{"reason": "fine", "score": 0}],
        [{"reason": "fine", "score": 85, "note": "extra"}],
    ],
)
def test_calls_that_are_no_single_verdict_are_refused(calls):
    assert "verdict" in str(failure_of(calling(*calls)))


# In its place


def test_it_steers_a_chat_model():
    evaluator = ChatModelEvaluator(judge('{"reason": "poor", "score": 20}'))
    assert isinstance(evaluator, Evaluator)
    with tiny_engine() as engine:
        answer = ChatSDA(engine=engine, alignment="honesty", evaluator=evaluator, max_tokens=4).invoke("hello")
    figures = answer.response_metadata["sda"]
    assert figures["score"]["value"] == 20
    assert figures["score"]["usage"]["calls"] == 1
    assert figures["amplification"] == pytest.approx(0.96403, abs=1e-5)


def test_a_pickle_goes_on_rating():
    assert pickle.loads(pickle.dumps(ChatModelEvaluator(judge()))).evaluate(RATED).value == 85  # noqa: S301


def test_a_tool_call_in_plain_text_is_no_verdict():
    assert "no usable verdict" in str(failure_of(ChatModelEvaluator(judge(call_text("verdict", {"score": 85})))))
