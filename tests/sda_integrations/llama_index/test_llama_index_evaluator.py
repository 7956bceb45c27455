"""A LlamaIndex LLM as the judge: what it is asked, what counts as its verdict, and what its faults become."""

import asyncio
import time

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from pydantic import PrivateAttr, SecretStr
from tenacity import wait_none

from sda_engine import Output, Sampling, Steering, SteeringEngine
from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import EvaluationRequest, Evaluator
from sda_engine.testing import ScriptedEngine
from sda_integrations.llama_index import SDALLM, LLMEvaluator
from tests.conftest import user

pytestmark = pytest.mark.usefixtures("no_event_loop_is_left_behind")

GOOD = '{"reason": "fine", "score": 85}'
RATED = EvaluationRequest(user("2 + 2?"), "It is four.", PRESETS["honesty"])


class Judge(CustomLLM):
    """An LLM that answers a script, and keeps what it was asked."""

    api_key: SecretStr = SecretStr("sk-canary-0123456789")
    model: str = "scripted"
    seconds: float = 0.0
    _raw: object = PrivateAttr()
    _script: list = PrivateAttr()
    _asked: list = PrivateAttr(default_factory=list)

    def __init__(self, script, raw, **fields):
        super().__init__(**fields)
        self._script, self._raw = list(script), raw

    @property
    def asked(self):
        return self._asked

    @property
    def metadata(self):
        return LLMMetadata(model_name=self.model)

    def complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError

    def chat(self, messages, **kwargs):
        self._asked.append(messages)
        time.sleep(self.seconds)
        entry = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(entry, Exception):
            raise entry
        return ChatResponse(message=ChatMessage(role="assistant", content=entry), raw=self._raw)

    async def achat(self, messages, **kwargs):
        return await asyncio.to_thread(self.chat, messages)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr("sda_engine.evaluators.retries._BACKOFF", wait_none())


def judge(*script, raw=None, **fields) -> Judge:
    return Judge(script or [GOOD], raw, **fields)


def failure_of(evaluator: LLMEvaluator) -> EvaluationError:
    with pytest.raises(EvaluationError) as failure:
        evaluator.evaluate(RATED)
    assert failure.value.base_response == RATED.response
    return failure.value


def test_its_verdict_becomes_the_score_with_reason_and_usage():
    llm = judge(raw={"usage": {"prompt_tokens": 120, "completion_tokens": 12}})
    score = LLMEvaluator(llm, prices=(2.0, 8.0)).evaluate(RATED)
    assert (score.value, score.reason) == (85.0, "fine")
    assert (score.usage.calls, score.usage.prompt_tokens, score.usage.completion_tokens) == (1, 120, 12)
    assert score.usage.cost == pytest.approx((120 * 2 + 12 * 8) / 1e6)
    system, query = llm.asked[0]
    assert (system.role.value, query.role.value) == ("system", "user")
    assert PRESETS["honesty"].rating_rubric in system.content
    assert "It is four." in query.content


async def test_the_async_score_is_the_same():
    assert (await LLMEvaluator(judge()).aevaluate(RATED)).value == 85


async def test_the_blocking_form_works_inside_a_running_event_loop():
    assert LLMEvaluator(judge()).evaluate(RATED).value == 85


@pytest.mark.parametrize("raw", [None, "text", {"usage": None}, {"usage": {"prompt_tokens": "many"}}, {"usage": [1]}])
def test_token_counts_that_are_none_do_not_fail_a_rating(raw):
    score = LLMEvaluator(judge(raw=raw)).evaluate(RATED)
    assert (score.value, score.usage.prompt_tokens, score.usage.completion_tokens) == (85, 0, 0)


@pytest.mark.parametrize("reply", ["85", f"Sure! {GOOD}", '{"score": 85}', '{"reason": "r", "score": -1}', None])
def test_a_reply_that_is_no_verdict_is_asked_for_again_and_then_an_error(reply):
    llm = judge(reply)
    assert "gave no usable verdict in 3 calls" in str(failure_of(LLMEvaluator(llm, max_retries=2)))
    assert len(llm.asked) == 3


def test_a_lost_connection_is_retried():
    llm = judge(ConnectionError("gone"), GOOD)
    assert LLMEvaluator(llm).evaluate(RATED).usage.calls == 2


def test_another_fault_fails_at_once_and_is_chained():
    fault = ValueError("no such model")
    llm = judge(fault)
    error = failure_of(LLMEvaluator(llm))
    assert (len(llm.asked), error.__cause__) == (1, fault)
    assert "The judge Judge 'scripted' failed in 1 call: ValueError: 'no such model'" in str(error)


def test_the_deadline_holds_for_an_llm_that_hangs():
    start = time.monotonic()
    assert "within timeout=0.5 seconds" in str(failure_of(LLMEvaluator(judge(seconds=4.0), timeout=0.5)))
    assert time.monotonic() - start < 3.5


def test_neither_name_nor_errors_show_the_llm_s_key():
    evaluator = LLMEvaluator(judge(ValueError("no")))
    assert "canary" not in f"{evaluator!r} {evaluator.name} {failure_of(evaluator)}"


def test_the_name_tells_llms_and_samples_apart():
    names = {
        LLMEvaluator(judge()).name,
        LLMEvaluator(judge(model="other")).name,
        LLMEvaluator(judge(), samples=3).name,
    }
    assert len(names) == 3
    assert LLMEvaluator(judge()).name == LLMEvaluator(judge()).name


@pytest.mark.parametrize("llm", ["gpt-4.1", None, Judge])
def test_what_is_no_llm_is_refused(llm):
    with pytest.raises(ConfigError, match="it must be a LlamaIndex LLM"):
        LLMEvaluator(llm)


def test_an_sdallm_can_be_the_judge_of_another_and_steer_it(engine: SteeringEngine):
    with ScriptedEngine(['{"reason": "poor", "score": 20}']) as judging:
        evaluator = LLMEvaluator(SDALLM(engine=judging))
        assert isinstance(evaluator, Evaluator)
        done = engine.generate(
            user("hello"),
            "honesty",
            steering=Steering(evaluator=evaluator),
            sampling=Sampling(max_new_tokens=4, seed=1),
        )
        assert judging.requests[0].output == Output()
    assert done.score.value == 20
    assert done.score.usage.completion_tokens > 0
