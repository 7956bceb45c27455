"""Requirement 30: a judge that is down, behind a server: each fallback's answer, and what clients and metrics tell."""

import json

import httpx
import pytest

from sda_engine import Sampling, Steering
from sda_engine.errors import EvaluationError
from sda_engine.evaluators.breaker import FAILURES_TO_OPEN, SECONDS_BETWEEN_PROBES
from sda_engine.testing import ScriptedEvaluator
from sda_integrations.server import EvaluatorSettings
from tests.conftest import user
from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.judges import completion, fault
from tests.sda_integrations.server.answers import events_of
from tests.servers import serving

CHAT = "/v1/chat/completions"
QUESTION = user("what is in the library?")
CANARY = "/srv/judge/secret.py"

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_retries")


@pytest.fixture
def url(engine, judge):
    """A server whose judge answers that it has failed, and says where."""
    judge.script = [fault(500, CANARY)]
    named = EvaluatorSettings(spec="openai:judge", url=judge.url)
    with serving(engine, alignment="honesty", evaluators={"judge": named}, evaluator="judge") as url:
        yield url


def ask(url, on_failure=None, stream=False):
    fallback = {} if on_failure is None else {"sda": {"on_evaluator_error": on_failure}}
    asked = {"model": "tiny-llama", "messages": QUESTION, "temperature": 0, "max_tokens": 5, "stream": stream}
    return httpx.post(url + CHAT, json=asked | fallback, timeout=60)


def told(reply, stream):
    """The text of an answer, and what the server tells of its steering."""
    if not stream:
        return reply.json()["choices"][0]["message"]["content"], reply.json()["sda"]
    *chunks, done = events_of(reply.text)
    assert done == "[DONE]"
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks), chunks[-1]["sda"]


def number(url, name):
    page = httpx.get(f"{url}/metrics").text
    return float(page.partition(f'\n{name}{{evaluator="judge"}} ')[2].partition("\n")[0])


def in_process(engine, on_failure):
    """What the engine answers with a judge that fails."""
    judge = ScriptedEvaluator([EvaluationError("down")])
    steering = Steering(evaluator=judge, on_evaluator_error=on_failure)
    return engine.generate(QUESTION, "honesty", steering=steering, sampling=Sampling(temperature=0, max_new_tokens=5))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on_failure", ["fixed", "instruct_only"])
def test_a_fallback_answers_as_it_does_in_process_and_is_told_and_counted(engine, url, judge, on_failure, stream):
    reply = ask(url, on_failure, stream)
    wanted = in_process(engine, on_failure)
    text, sda = told(reply, stream)
    assert reply.status_code == 200
    assert text == wanted.text
    assert (sda["amplification"], sda["strength"]) == (wanted.amplification, wanted.trace.strength)
    assert (sda["score"]["fallback"], sda["score"]["evaluator"]) == (on_failure, "judge")
    assert sda["base_response"] == wanted.base_response
    assert number(url, "sda_evaluator_failures_total") == 1
    assert judge.url not in reply.text
    assert CANARY not in reply.text


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_fallback_it_is_an_error_with_the_base_response_and_without_the_judges_words(
    engine, url, judge, stream
):
    reply = ask(url, stream=stream)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (502, "evaluation_failed")
    assert error["sda"]["base_response"] == in_process(engine, "fixed").base_response
    assert number(url, "sda_evaluator_failures_total") == 1
    assert judge.url not in reply.text
    assert CANARY not in reply.text


@pytest.mark.parametrize("on_failure", ["fixed", None])
def test_a_judge_that_keeps_failing_is_left_alone_and_the_metrics_show_it(url, judge, on_failure):
    judge.script = [fault(401, CANARY)]  # which no rating tries again
    for _ in range(FAILURES_TO_OPEN - 1):
        ask(url, on_failure)
    assert number(url, "sda_evaluator_breaker_open") == 0
    ask(url, on_failure)
    assert number(url, "sda_evaluator_breaker_open") == 1
    calls = judge.calls
    assert calls == FAILURES_TO_OPEN
    status = {ask(url, on_failure).status_code for _ in range(3)}
    assert status == {200 if on_failure else 502}
    assert judge.calls == calls, "an open breaker lets nothing through"
    assert number(url, "sda_evaluator_failures_total") == FAILURES_TO_OPEN + 3


def test_a_judge_that_is_not_there_is_told_of_without_its_address(engine):
    gone = RawServer()
    gone.close()
    named = EvaluatorSettings(spec="openai:judge", url=gone.url)
    with serving(engine, alignment="honesty", evaluators={"judge": named}, evaluator="judge") as url:
        refused, taken = ask(url), ask(url, "instruct_only")
        numbers = httpx.get(f"{url}/metrics").text
    assert (refused.status_code, taken.status_code) == (502, 200)
    assert taken.json()["sda"]["amplification"] == 0
    address = gone.url.removeprefix("http://").removesuffix("/v1")
    assert address not in json.dumps(refused.json()) + taken.text + numbers


def test_a_judge_that_is_mended_is_found_out_by_one_probe_and_rates_again(engine, judge, monkeypatch):
    evaluator = judge.evaluator(max_retries=0)
    judge.script = [fault(401, CANARY)]
    with serving(engine, alignment="honesty", evaluators={"judge": evaluator}, evaluator="judge") as url:
        for _ in range(FAILURES_TO_OPEN + 1):
            ask(url, "fixed")
        judge.script = [completion()]
        assert ask(url, "fixed").json()["sda"]["score"]["fallback"] == "fixed", "it is too early"
        assert judge.calls == FAILURES_TO_OPEN
        later = evaluator.breaker._clock() + SECONDS_BETWEEN_PROBES
        monkeypatch.setattr(evaluator.breaker, "_clock", lambda: later)
        score = ask(url, "fixed").json()["sda"]["score"]
        assert (score["value"], score.get("fallback")) == (85, None)
        assert judge.calls == FAILURES_TO_OPEN + 1
        assert number(url, "sda_evaluator_breaker_open") == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on_failure", ["fixed", "raise"])
def test_an_evaluator_with_a_fault_of_its_own_tells_clients_nothing_of_it(engine, caplog, on_failure, stream):
    broken = ScriptedEvaluator([RuntimeError(CANARY)])
    with serving(engine, alignment="honesty", evaluators={"judge": broken}, evaluator="judge") as url:
        reply = ask(url, on_failure, stream)
        numbers = httpx.get(f"{url}/metrics").text
    assert broken.requests
    assert reply.status_code == (200 if on_failure == "fixed" else 502)
    assert CANARY not in reply.text + str(reply.headers) + numbers
    assert (CANARY in caplog.text) is (on_failure == "raise")
