"""Requirement 30: a server whose judge fails. Requests go on as their policy says, and the metrics tell of it."""

import json
import socket

import httpx
import pytest
from werkzeug import Response

from sda_engine import RemoteEngine, Sampling, ServerEvaluator, Steering
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import OpenAIEvaluator
from sda_engine.evaluators.breaker import FAILURES_TO_OPEN, SECONDS_BETWEEN_PROBES
from sda_integrations.server import EvaluatorSettings
from tests.conftest import user
from tests.sda_engine.evaluators.judges import CANARY, completion, fault
from tests.servers import serving

QUESTION = user("What is in the library?")
SAMPLING = Sampling(temperature=0, max_new_tokens=6)
REPLIES = {
    "fault": fault(500, f"{CANARY} crashed"),
    "wrong key": fault(401, f"{CANARY} is wrong"),
    "prose": completion(f"{CANARY}: 85"),
    "web page": Response(f"<html>{CANARY}</html>", mimetype="text/html"),
}

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_retries")


def steering(fallback: str, evaluator: object) -> Steering:
    return Steering(evaluator=evaluator, on_evaluator_error=fallback)


def number(url, name):
    """One of the server's metrics."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(name)]
    return float(value)


@pytest.fixture
def served(engine, judge):
    """A server that rates by the judge, whose answers are waited for once."""
    like = EvaluatorSettings(spec="openai:judge", url=judge.url, api_key=CANARY)
    with serving(engine, served_model_name="tiny", alignment="honesty", evaluators={"judge": like}) as url:
        yield url


@pytest.fixture
def remote(served):
    with RemoteEngine(f"{served}/v1", model="tiny", max_retries=0) as remote:
        yield remote


async def answer(engine, stream, evaluator, fallback):
    asked = {"alignment": "honesty", "sampling": SAMPLING, "steering": steering(fallback, evaluator)}
    if not stream:
        return await engine.agenerate(QUESTION, **asked)
    return [piece async for piece in engine.astream(QUESTION, **asked)][-1].completion


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fallback", ["fixed", "instruct_only"])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_answers_fall_back_as_they_do_in_process(engine, judge, served, remote, reply, fallback, stream):
    judge.script = [reply]
    done = await answer(remote, stream, ServerEvaluator("judge"), fallback)
    own = OpenAIEvaluator("judge", base_url=judge.url, api_key=CANARY)
    wanted = await answer(engine, stream, own, fallback)
    assert judge.calls >= 2
    assert (done.token_ids, done.amplification) == (wanted.token_ids, wanted.amplification)
    assert done.score.fallback == wanted.score.fallback == fallback
    assert done.base_response == wanted.base_response
    assert number(served, "sda_evaluator_failures_total") == 1
    assert CANARY not in json.dumps(done.score.model_dump(mode="json"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_where_the_policy_is_to_raise_the_client_gets_the_base_response_and_no_cause(
    engine, judge, served, remote, reply, stream
):
    judge.script = [reply]
    with pytest.raises(EvaluationError) as failed:
        await answer(remote, stream, ServerEvaluator("judge"), "raise")
    base = engine.generate(QUESTION, sampling=SAMPLING).text
    assert failed.value.base_response.startswith(base)
    for hidden in (CANARY, judge.url, "500", "html"):
        assert hidden not in str(failed.value)
    assert number(served, "sda_evaluator_failures_total") == 1
    assert engine.stats().requests == 0


async def test_a_judge_that_cannot_be_reached_is_left_alone_and_the_metrics_tell_so(engine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    judge = OpenAIEvaluator("judge", base_url=closed, max_retries=0)
    with (
        serving(engine, served_model_name="tiny", evaluators={"judge": judge}) as url,
        RemoteEngine(f"{url}/v1", model="tiny", max_retries=0) as remote,
    ):
        opened = []
        for _ in range(FAILURES_TO_OPEN + 1):
            opened.append(number(url, "sda_evaluator_breaker_open"))
            done = await answer(remote, False, ServerEvaluator("judge"), "instruct_only")
            assert done.score.fallback == "instruct_only"
        assert opened == [0.0] * FAILURES_TO_OPEN + [1.0]
        assert number(url, "sda_evaluator_failures_total") == FAILURES_TO_OPEN + 1
        assert closed not in httpx.get(f"{url}/metrics").text + str(done)


async def test_a_judge_that_is_mended_is_asked_again_by_one_probe(engine, judge, monkeypatch):
    evaluator = OpenAIEvaluator("judge", base_url=judge.url, max_retries=0)
    judge.script = [fault(500)]
    with (
        serving(engine, served_model_name="tiny", evaluators={"judge": evaluator}) as url,
        RemoteEngine(f"{url}/v1", model="tiny", max_retries=0) as remote,
    ):

        async def fallback():
            return (await answer(remote, False, ServerEvaluator("judge"), "fixed")).score.fallback

        assert [await fallback() for _ in range(FAILURES_TO_OPEN + 3)] == ["fixed"] * (FAILURES_TO_OPEN + 3)
        assert judge.calls == FAILURES_TO_OPEN, "and then it was left alone"
        judge.script = [completion()]
        now = evaluator.breaker._clock()
        monkeypatch.setattr(evaluator.breaker, "_clock", lambda: now + SECONDS_BETWEEN_PROBES)
        assert await fallback() is None
        assert judge.calls == FAILURES_TO_OPEN + 1
        assert number(url, "sda_evaluator_breaker_open") == 0
