import asyncio
import gzip
import json
import logging
import pickle
import socket
import threading
import time
import traceback

import openai
import pytest
from werkzeug import Response

from sda_engine import Steering
from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import Evaluator, OpenAIEvaluator
from tests.sda_engine.evaluators.judges import CANARY, GOOD, RATED, Judge, as_json, completion, fault
from tests.sda_engine.evaluators.verdict_replies import REFUSED

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_retries")


def unpickled(evaluator: OpenAIEvaluator) -> OpenAIEvaluator:
    copied: OpenAIEvaluator = pickle.loads(pickle.dumps(evaluator))  # noqa: S301
    return copied


def failure_of(evaluator: OpenAIEvaluator) -> EvaluationError:
    with pytest.raises(EvaluationError) as failure:
        evaluator.evaluate(RATED)
    return failure.value


# What is asked, and what comes of a good answer


def test_a_structured_verdict_becomes_the_score(judge: Judge) -> None:
    score = judge.evaluator().evaluate(RATED)
    assert (score.value, score.reason, score.samples, score.fallback) == (85.0, "fine", (), None)
    assert score.evaluator == f"OpenAIEvaluator('judge', base_url='{judge.url}')"


def test_the_judge_is_asked_at_temperature_0_for_the_schema_with_rubric_and_response(judge: Judge) -> None:
    judge.evaluator().evaluate(RATED)
    [body] = judge.bodies
    assert (body["model"], body["temperature"]) == ("judge", 0.0)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["strict"] is True
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert PRESETS["honesty"].rating_rubric in system["content"]
    assert "2 + 2?" in user["content"]
    assert "It is four." in user["content"]


async def test_the_async_score_is_the_same(judge: Judge) -> None:
    evaluator = judge.evaluator()
    assert await evaluator.aevaluate(RATED) == evaluator.evaluate(RATED)


async def test_the_blocking_form_works_inside_a_running_event_loop(judge: Judge) -> None:
    assert judge.evaluator().evaluate(RATED).value == 85.0


async def test_the_async_form_does_not_block_the_event_loop(judge: Judge) -> None:
    judge.script = [judge.hang]
    rating = asyncio.create_task(judge.evaluator().aevaluate(RATED))
    assert await asyncio.to_thread(judge.arrived.acquire, timeout=10)
    assert not rating.done()  # a loop that is blocked gets here only when the rating is done
    judge.released.set()
    assert (await rating).value == 85.0


async def test_a_cancelled_rating_ends_at_once_without_further_calls(judge: Judge) -> None:
    judge.script = [judge.hang]
    rating = asyncio.create_task(judge.evaluator(samples=2).aevaluate(RATED))
    for _ in range(2):
        assert await asyncio.to_thread(judge.arrived.acquire, timeout=10)
    rating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rating
    assert judge.calls == 2


def test_one_evaluator_serves_many_threads_and_event_loops(judge: Judge) -> None:
    evaluator = judge.evaluator()
    values: list[float | None] = []
    threads = [threading.Thread(target=lambda: values.append(evaluator.evaluate(RATED).value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [85.0] * 4


def test_it_is_an_evaluator_that_needs_a_response_and_fits_into_steering(judge: Judge) -> None:
    evaluator = judge.evaluator()
    assert isinstance(evaluator, Evaluator)
    assert evaluator.needs_response is True
    assert Steering(evaluator=evaluator).describe()["evaluator"] == evaluator.name


# Several samples


def rated(score: float) -> Response:
    return completion(json.dumps({"reason": f"it is {score:g}", "score": score}))


def test_several_samples_are_combined_by_their_median(judge: Judge) -> None:
    judge.script = [rated(10), rated(90), rated(20)]
    score = judge.evaluator(samples=3).evaluate(RATED)
    assert (score.value, score.reason, sorted(score.samples)) == (20.0, "it is 20", [10.0, 20.0, 90.0])
    assert judge.calls == 3
    assert not any("temperature" in body for body in judge.bodies)


def test_the_median_of_an_even_number_of_samples_lies_between_the_middle_two(judge: Judge) -> None:
    judge.script = [rated(10), rated(90), rated(20), rated(40)]
    assert judge.evaluator(samples=4).evaluate(RATED).value == 30.0


def test_samples_are_asked_for_at_the_same_time(judge: Judge) -> None:
    together = threading.Barrier(3, timeout=10)

    def wait_for_the_others() -> Response:
        together.wait()
        return completion()

    judge.script = [wait_for_the_others]
    assert judge.evaluator(samples=3, max_retries=0).evaluate(RATED).samples == (85.0, 85.0, 85.0)


def test_one_failed_sample_fails_the_rating(judge: Judge) -> None:
    judge.script = [completion(), fault(401), completion()]
    assert "401" in str(failure_of(judge.evaluator(samples=3)))


# Fields that a server does not take


@pytest.mark.parametrize(
    "refusal",
    [
        fault(400, "response_format is not supported by this model"),
        fault(400, "bad request"),
        fault(404, "'response_format' of type 'json_schema' not found"),
        fault(422, "extra inputs are not permitted"),
        fault(501, "structured output is not implemented"),
        Response("json_schema: unknown", 400, mimetype="text/plain"),
    ],
)
def test_a_server_without_structured_output_is_asked_in_plain_text_from_then_on(
    judge: Judge, refusal: Response
) -> None:
    judge.script = [refusal, completion()]
    evaluator = judge.evaluator()
    assert evaluator.evaluate(RATED).value == 85.0
    assert evaluator.evaluate(RATED).value == 85.0
    assert ["response_format" in body for body in judge.bodies] == [True, False, False]


def test_plain_text_is_tried_even_where_no_retries_are_allowed(judge: Judge) -> None:
    judge.script = [fault(400), completion()]
    assert judge.evaluator(max_retries=0).evaluate(RATED).value == 85.0


def test_plain_text_is_parsed_just_as_strictly(judge: Judge) -> None:
    judge.script = [fault(400), completion(f"Sure! {GOOD}")]
    assert "Sure!" in str(failure_of(judge.evaluator(max_retries=2)))
    assert judge.calls == 3


def test_a_model_that_takes_no_temperature_is_asked_without_from_then_on(judge: Judge) -> None:
    judge.script = [
        fault(400, "Unsupported value: 'temperature' does not support 0 with this model."),
        completion(),
    ]
    evaluator = judge.evaluator()
    evaluator.evaluate(RATED)
    evaluator.evaluate(RATED)
    assert ["temperature" in body for body in judge.bodies] == [True, False, False]
    assert all("response_format" in body for body in judge.bodies)


def test_a_bad_request_is_not_taken_for_a_refused_format_once_the_format_was_accepted(judge: Judge) -> None:
    judge.script = [completion(), fault(400, "the prompt is too long")]
    evaluator = judge.evaluator()
    evaluator.evaluate(RATED)
    assert "the prompt is too long" in str(failure_of(evaluator))
    assert judge.calls == 2


def test_a_bad_request_that_plain_text_does_not_cure_fails_and_is_not_remembered(judge: Judge) -> None:
    judge.script = [fault(400, "the prompt is too long")]
    evaluator = judge.evaluator()
    assert "context window" in str(failure_of(evaluator))
    assert judge.calls == 2
    judge.script = [completion()]
    evaluator.evaluate(RATED)
    assert "response_format" in judge.bodies[-1]


# Faults that may pass


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_three_passing_faults_and_a_verdict_take_four_calls(judge: Judge, status: int) -> None:
    judge.script = [fault(status), fault(status), fault(status), completion()]
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert judge.calls == 4


@pytest.mark.parametrize(("max_retries", "calls"), [(0, 1), (1, 2), (5, 6)])
def test_faults_that_do_not_pass_take_one_call_more_than_max_retries(
    judge: Judge, max_retries: int, calls: int
) -> None:
    judge.script = [fault(500, "out of order")]
    error = failure_of(judge.evaluator(max_retries=max_retries))
    assert judge.calls == calls
    assert "answered 500" in str(error)
    assert "out of order" in str(error)
    assert f"{calls} call" in str(error)
    assert isinstance(error.__cause__, openai.InternalServerError)
    assert error.base_response == "It is four."


def test_a_hundred_unparseable_replies_take_at_most_max_retries_and_one_call_each(judge: Judge) -> None:
    judge.script = [completion("I would say 85.")]
    failure_of(judge.evaluator(samples=100, max_retries=1))
    assert judge.calls == 200


def test_an_unusable_reply_is_followed_by_another_call(judge: Judge) -> None:
    judge.script = [completion("85"), completion(None), completion()]
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert judge.calls == 3


def test_a_refused_connection_is_retried_and_then_explained() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = failure_of(OpenAIEvaluator("judge", base_url=url, max_retries=2))
    assert "could not be reached in 3 calls" in str(error)
    assert "Check base_url" in str(error)
    assert isinstance(error.__cause__, openai.APIConnectionError)


def test_retry_after_is_honoured(judge: Judge) -> None:
    judge.script = [fault(429, **{"Retry-After": "0.3"}), completion()]
    start = time.monotonic()
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert time.monotonic() - start >= 0.3


# The deadline


@pytest.mark.parametrize("stall", ["hang", "drip"])
def test_a_server_that_stalls_is_left_at_the_deadline(judge: Judge, stall: str) -> None:
    judge.script = [getattr(judge, stall)]
    start = time.monotonic()
    error = failure_of(judge.evaluator(timeout=0.5))
    assert time.monotonic() - start < 5.0  # it would stall for 20 seconds or more
    assert "within timeout=0.5 seconds" in str(error)
    assert "Raise timeout" in str(error)
    assert isinstance(error.__cause__, TimeoutError)
    assert error.base_response == "It is four."


async def test_the_deadline_holds_for_the_async_form_too(judge: Judge) -> None:
    judge.script = [judge.drip]
    with pytest.raises(EvaluationError, match=r"within timeout=0\.4 seconds"):
        await judge.evaluator(timeout=0.4).aevaluate(RATED)


def test_a_retry_after_beyond_the_deadline_fails_at_once(judge: Judge) -> None:
    judge.script = [fault(429, "slow down", **{"Retry-After": "120"})]
    start = time.monotonic()
    error = failure_of(judge.evaluator(timeout=20.0))
    assert time.monotonic() - start < 10.0
    assert judge.calls == 1
    assert "asks to wait 120 s" in str(error)
    assert "slow down" in str(error)


def test_the_deadline_is_one_for_all_calls_and_the_error_tells_the_last_failure(judge: Judge) -> None:
    judge.script = [fault(503, "warming up"), judge.hang]
    error = failure_of(judge.evaluator(timeout=0.6))
    assert "warming up" in str(error)
    assert isinstance(error.__cause__, openai.InternalServerError)


def test_a_worker_thread_that_cannot_be_cancelled_is_left_soon_after_the_deadline(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve_slowly(*_: object, **__: object) -> list[object]:
        judge.released.wait(20)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    start = time.monotonic()
    error = failure_of(OpenAIEvaluator("judge", base_url="http://judge.invalid/v1", timeout=0.3))
    assert time.monotonic() - start < 5.0
    assert "within timeout=0.3 seconds" in str(error)
    assert error.base_response == "It is four."


# Faults that do not pass


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "Pass the right api_key"),
        (402, "Check the model name"),
        (403, "may call this model"),
        (404, "Check the model name"),
        (409, "Check the model name"),
        (451, "Check the model name"),
    ],
)
def test_other_client_errors_fail_at_once_with_a_remedy(judge: Judge, status: int, remedy: str) -> None:
    judge.script = [fault(status, "you cannot")]
    error = failure_of(judge.evaluator())
    assert judge.calls == 1
    assert f"answered {status} after 1 call: " in str(error)
    assert "you cannot" in str(error)
    assert remedy in str(error)
    assert isinstance(error.__cause__, openai.APIStatusError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(judge: Judge, elsewhere: Judge, status: int) -> None:
    judge.script = [Response("", status, {"Location": f"{elsewhere.url}/chat/completions"})]
    error = failure_of(judge.evaluator(api_key=CANARY))
    assert elsewhere.calls == 0
    assert judge.calls == 1
    assert "Redirects are not followed" in str(error)


# Replies that are no verdict

UNUSABLE = {
    "HTML": (Response("<html>Log in</html>", mimetype="text/html"), "Log in"),
    "plain text": (Response(GOOD, mimetype="text/plain"), "no chat completion"),
    "JSON string": (as_json(GOOD), "no chat completion"),
    "nothing": (Response("", 200), "no chat completion"),
    "no content": (Response("", 204), "no chat completion"),
    "truncated JSON": (Response('{"choices": [{"mess', mimetype="application/json"), "choices"),
    "bad encoding": (Response(b"\xff\xfe\x00", mimetype="application/json"), "no chat completion"),
    "unknown charset": (Response(b"{", mimetype="application/json; charset=none"), "no chat completion"),
    "deep nesting": (Response("[" * 60_000, mimetype="application/json"), "no chat completion"),
    "event stream": (Response(f"data: {GOOD}\n\n", mimetype="text/event-stream"), "no chat completion"),
    "bad compression": (Response(b"no gzip", headers={"Content-Encoding": "gzip"}), "compressed ('gzip')"),
    "compressed HTML": (Response(gzip.compress(b"<html>"), headers={"Content-Encoding": "gzip"}), "compressed"),
    "too long": (Response(b" " * 65_537, mimetype="application/json"), "more than 64 KiB"),
    "a fault that is too long": (Response(b" " * 65_537, 400, mimetype="application/json"), "more than 64 KiB"),
    "null": (as_json(None), "no chat completion"),
    "an error as 200": (as_json({"error": {"message": "overloaded"}}), "overloaded"),
    "null choices": (as_json({"choices": None}), "no chat completion"),
    "empty choices": (as_json({"choices": []}), "no chat completion"),
    "null choice": (as_json({"choices": [None]}), "no chat completion"),
    "choice of text": (as_json({"choices": [{"text": GOOD}]}), "no chat completion"),
    "two choices": (as_json({"choices": [{"message": {"content": GOOD}}] * 2}), "no chat completion"),
    "null message": (as_json({"choices": [{"message": None}]}), "no chat completion"),
    "null content": (completion(None), "no content"),
    "content of parts": (completion([{"type": "text", "text": GOOD}]), "no chat completion"),
    "content an object": (completion(json.loads(GOOD)), "no chat completion"),
    "content a number": (completion(85), "no chat completion"),
    "reasoning only": (completion(None, reasoning_content=GOOD), "no content"),
    "tool call only": (
        completion(None, "tool_calls", tool_calls=[{"function": {"arguments": GOOD}}]),
        "no content",
    ),
    "refusal": (completion(None, refusal="I cannot rate this."), "I cannot rate this."),
    "refusal beside a verdict": (completion(GOOD, refusal="I cannot rate this."), "I cannot rate this."),
    "length": (completion('{"reason": "fi', "length"), "finish_reason 'length'"),
    "length after a verdict": (completion(GOOD, "length"), "finish_reason 'length'"),
    "content filter": (completion("", "content_filter"), "finish_reason 'content_filter'"),
}


@pytest.mark.parametrize(("reply", "shown"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_reply_that_is_no_verdict_is_an_evaluation_error(judge: Judge, reply: Response, shown: str) -> None:
    judge.script = [reply]
    error = failure_of(judge.evaluator(max_retries=1))
    assert judge.calls == 2
    assert shown in str(error)
    assert len(str(error)) < 1000
    assert error.__cause__ is not None
    assert error.base_response == "It is four."


def test_no_tricky_reply_of_the_corpus_becomes_a_score(judge: Judge) -> None:
    judge.script = [completion(reply) for reply in REFUSED.values()]
    failure_of(judge.evaluator(max_retries=len(REFUSED) - 1))
    assert judge.calls == len(REFUSED)  # each reply was refused, and so followed by another call


# Secrets


def test_the_key_goes_to_the_server_and_shows_nowhere_else(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    evaluator = judge.evaluator(api_key=CANARY)
    score = evaluator.evaluate(RATED)
    assert f"Bearer {CANARY}" in judge.headers[0]
    shown = [repr(evaluator), str(evaluator), evaluator.name, repr(score), str(vars(evaluator)), caplog.text]
    assert not any(CANARY in text for text in shown)
    assert CANARY.encode() not in pickle.dumps(evaluator)
    assert caplog.text, "the SDK logs at DEBUG, so this test would see a key there"


@pytest.mark.parametrize(
    "reply",
    [
        fault(401, f"Incorrect API key provided: {CANARY}"),
        fault(400, f"temperature and response_format are wrong, and so is {CANARY}"),
        fault(500, f"{CANARY} crashed"),
        Response(f"<html>{CANARY}</html>", 403, mimetype="text/html"),
        Response(f"<html>{CANARY}</html>", 200, mimetype="text/html"),
        completion(f"your key is {CANARY}"),
        completion(None, refusal=f"your key is {CANARY}"),
        completion(json.dumps({"reason": "fine", CANARY: 85})),
    ],
)
def test_a_key_that_the_server_echoes_is_hidden_in_the_error_and_its_causes(judge: Judge, reply: Response) -> None:
    judge.script = [reply]
    error = failure_of(judge.evaluator(api_key=CANARY, max_retries=1))
    assert CANARY not in "".join(traceback.format_exception(error))
    assert "[api_key]" in str(error)
    assert CANARY not in repr(error.__cause__)


def test_a_key_that_the_judge_echoes_as_its_reason_is_hidden(judge: Judge) -> None:
    judge.script = [completion(json.dumps({"reason": f"the key is {CANARY}", "score": 85}))]
    assert judge.evaluator(api_key=CANARY).evaluate(RATED).reason == "the key is [api_key]"


def test_nothing_of_the_environment_reaches_a_server_of_one_s_own(
    judge: Judge, elsewhere: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", CANARY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {CANARY}\nX-Api-Key: {CANARY}")
    monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert CANARY not in judge.headers[0]
    assert "Bearer not-needed" in judge.headers[0]
    assert elsewhere.calls == 0


def test_an_unpickled_evaluator_rates_where_no_key_is_needed(judge: Judge) -> None:
    evaluator = judge.evaluator(timeout=7.0, max_retries=2, samples=3)
    again = unpickled(evaluator)
    assert (again.name, again.timeout, again.max_retries) == (evaluator.name, 7.0, 2)
    assert again.evaluate(RATED).samples == (85.0, 85.0, 85.0)


def test_an_unpickled_evaluator_says_that_its_key_was_left_out(judge: Judge) -> None:
    error = failure_of(unpickled(judge.evaluator(api_key=CANARY)))
    assert "Build the evaluator anew with api_key" in str(error)
    assert judge.calls == 0
    assert error.base_response == "It is four."


# Construction


def test_building_one_opens_no_socket_and_needs_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert OpenAIEvaluator("gpt-4.1").name == "OpenAIEvaluator('gpt-4.1')"


def test_without_a_key_for_openai_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        OpenAIEvaluator("gpt-4.1")


@pytest.mark.parametrize(
    ("argument", "value", "legal"),
    [
        ("model", "", "name of a model"),
        ("model", "  ", "name of a model"),
        ("model", None, "name of a model"),
        ("timeout", 0, "above 0"),
        ("timeout", -1.5, "above 0"),
        ("timeout", float("nan"), "above 0"),
        ("timeout", float("inf"), "at most 86400"),
        ("timeout", True, "a number of seconds"),
        ("timeout", "30", "a number of seconds"),
        ("max_retries", -1, "at least 0"),
        ("max_retries", 1.0, "a whole number"),
        ("max_retries", False, "a whole number"),
        ("samples", 0, "at least 1"),
        ("samples", 2.0, "a whole number"),
        ("samples", None, "a whole number"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_value_and_range(argument: str, value: object, legal: str) -> None:
    arguments = {"model": "judge", "base_url": "http://localhost/v1", argument: value}
    with pytest.raises(ConfigError, match=legal) as refused:
        OpenAIEvaluator(**arguments)  # type: ignore[arg-type]
    assert f"OpenAIEvaluator.{argument} cannot be {value!r}" in str(refused.value)


def test_the_name_tells_what_changes_a_score() -> None:
    url = "http://localhost/v1"
    settings = [
        {},
        {"samples": 3},
        {"base_url": url},
        {"base_url": url + "/other"},
        {"samples": 3, "base_url": url},
    ]
    names = [OpenAIEvaluator(model, api_key=CANARY, **more).name for model in ("a", "b") for more in settings]  # type: ignore[arg-type]
    assert len(set(names)) == 10
    patient = OpenAIEvaluator("a", api_key="another-key", timeout=90.0, max_retries=9)
    assert patient.name == names[0]
