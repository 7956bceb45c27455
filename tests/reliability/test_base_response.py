"""Requirements 3 and 7: whatever fails in an evaluator, the base response survives, and the causes are chained."""

import socket
from collections.abc import Callable

import pytest
from werkzeug import Response

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import OpenAIEvaluator
from sda_engine.steering.amplification import amplification_factor
from tests.conftest import user
from tests.reliability.raw_server import HEAD, RawServer, drip, hang
from tests.sda_engine.evaluators.judges import GOOD, Judge, as_json, completion, fault

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind")
SHORT = Sampling(max_new_tokens=4, temperature=0)

pytestmark = pytest.mark.usefixtures("clean_environment")


def unresolvable(*_: object, **__: object) -> list[object]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def refusing_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


OVERSIZED = as_json({"choices": [{"message": {"content": GOOD}}], "padding": "x" * 70_000})
FAILURES: dict[str, Response | Callable[[socket.socket], None] | str] = {
    "429": fault(429),
    "500": fault(500),
    "401": fault(401),
    "redirect": Response("", 307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}),
    "HTML": Response("<html>score 100</html>", mimetype="text/html"),
    "garbage": Response(bytes(range(256)), mimetype="application/json"),
    "truncated JSON": Response('{"choices": [{"message": {"content": "', mimetype="application/json"),
    "empty choices": as_json({"choices": []}),
    "null content": completion(None),
    "refusal": completion(None, refusal="I cannot rate this."),
    "cut off": completion(GOOD, "length"),
    "prose": completion("I would say 85 of 100."),
    "score of 0": completion('{"reason": "none", "score": 0}'),
    "score of -1": completion('{"reason": "none", "score": -1}'),
    "score of NaN": completion('{"reason": "none", "score": NaN}'),
    "oversized": OVERSIZED,
    "hang": hang,
    "drip": drip(" " * 200),
    "closed without a reply": lambda connection: connection.close(),
    "no HTTP": lambda connection: connection.sendall(b"\x16\x03\x01\x02" * 100),
    "closed inside the body": lambda connection: connection.sendall(f"{HEAD}Content-Length: 999\r\n\r\n{{".encode()),
    "connection refused": "refused",
    "unknown host": "unknown",
}


@pytest.fixture(params=FAILURES.values(), ids=FAILURES)
def failing(
    request: pytest.FixtureRequest,
    judge: Judge,
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    quick_retries: None,
) -> OpenAIEvaluator:
    """An evaluator whose server fails in one way."""
    failure = request.param
    if isinstance(failure, Response):
        judge.script = [failure]
        return judge.evaluator(max_retries=1, timeout=10.0)
    if failure == "unknown":
        monkeypatch.setattr(socket, "getaddrinfo", unresolvable)
        return OpenAIEvaluator("judge", base_url="http://judge.invalid/v1", max_retries=1)
    url = refusing_url() if failure == "refused" else raw_server(failure).url
    return OpenAIEvaluator("judge", base_url=url, max_retries=1, timeout=0.5 if callable(failure) else 10.0)


def test_every_failure_leaves_the_base_response_in_the_error_or_in_a_result_that_records_the_fallback(
    engine: SteeringEngine, failing: OpenAIEvaluator
) -> None:
    plain = engine.generate(QUESTION, sampling=SHORT).text
    with pytest.raises(EvaluationError) as failure:
        engine.generate(QUESTION, KIND, steering=Steering(evaluator=failing), sampling=SHORT)
    assert failure.value.base_response == plain
    assert isinstance(failure.value.__cause__, EvaluationError)  # the evaluator's own
    assert failure.value.__cause__.__cause__ is not None  # and what it stems from
    for fallback, score, amplification in (("instruct_only", None, 0.0), ("fixed", 50.0, amplification_factor(50.0))):
        steering = Steering(evaluator=failing, on_evaluator_error=fallback, accept_score=1.0)
        done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
        assert done.base_response == plain
        assert done.score is not None
        assert (done.score.value, done.score.fallback, done.amplification) == (score, fallback, amplification)
        assert done.score.reason is not None
        assert "EvaluationError: " in done.score.reason
        assert "judge" in done.score.reason


async def test_async_and_streamed_answers_keep_the_base_response_too(
    engine: SteeringEngine, judge: Judge, quick_retries: None
) -> None:
    judge.script = [fault(500)]
    plain = engine.generate(QUESTION, sampling=SHORT).text
    steering = Steering(evaluator=judge.evaluator(max_retries=0))
    with pytest.raises(EvaluationError) as failure:
        await engine.agenerate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert failure.value.base_response == plain
    with pytest.raises(EvaluationError) as failure:
        list(engine.stream(QUESTION, KIND, steering=steering, sampling=SHORT))
    assert failure.value.base_response == plain
