"""Requests for answers that fail: each in OpenAI's shape, with the status of its kind and the field that is wrong."""

import json
import logging

import pytest

from sda_engine.errors import EvaluationError
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, tiny_engine
from sda_integrations.server import ServerLimits
from tests.sda_integrations.server.answers import QUESTION, endless_engine, events_of

CHAT = "/v1/chat/completions"
ASKED = {"model": "scripted", "messages": QUESTION, "max_tokens": 20}
TOOL = {"type": "function", "function": {"name": "look"}}
UNKNOWN_SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {"$ref": "http://127.0.0.1/"}}}


async def refusal(client, body, status, path=CHAT):
    """The error that a request ends with."""
    reply = await client.post(path, json=body) if isinstance(body, dict) else await client.post(path, content=body)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": QUESTION * 4}, "messages"),
        ({"n": 3}, "n"),
        ({"n": 0}, "n"),
        ({"tools": [TOOL, {**TOOL, "function": {"name": "go"}}]}, "tools"),
        ({"stop": ["a", "b"]}, "stop"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"no_such": 1}, "no_such"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"sda": {"gian": 2}}, "sda.gian"),
        ({"sda": {"evaluator": "openai:gpt-4.1"}}, "sda.evaluator"),
        ({"sda": {"adapter": "poet"}}, "sda.adapter"),
        ({"sda": {"template_kwargs": {"colour": "red"}}}, "sda.template_kwargs"),
        ({"sda": {"timeout": 0}}, "sda.timeout"),
        ({"sda": {"constraint": {"regex": "("}}}, "sda.constraint"),
        ({"tools": [UNKNOWN_SCHEMA], "tool_choice": "required"}, "tools"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_field_that_is_wrong_is_named(client_of, fields, param, stream):
    limits = ServerLimits(messages=3, n=2, tools=1, stops=1)
    async with client_of(limits=limits) as client:
        error = await refusal(client, {**ASKED, "stream": stream, **fields}, 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'{"a": NaN}', b"\xff", b'"\\ud800"'])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_a_body_that_is_no_request_is_refused(client_of, path, body):
    async with client_of() as client:
        error = await refusal(client, body, 400, path)
    assert "The body of the request" in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_a_model_that_is_not_served_is_not_found(client_of, path):
    asked = {"model": "gpt-4.1", "messages": QUESTION} if path == CHAT else {"model": "gpt-4.1", "prompt": "Who?"}
    async with client_of() as client:
        error = await refusal(client, asked, 404, path)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_a_prompt_that_is_too_long_says_by_how_much(client_of, engine):
    long = [{"role": "user", "content": "x" * 3000}]
    async with client_of(engine) as client:
        for stream in (False, True):
            error = await refusal(client, {"model": "tiny-llama", "messages": long, "stream": stream}, 400)
            assert error["code"] == "context_length_exceeded"
            assert error["sda"]["context_window"] == 2048


async def test_a_long_body_is_read_off_the_loop_and_answered(client_of):
    long = [{"role": "user", "content": "x" * 5000} for _ in range(15)]
    async with client_of() as client:
        error = await refusal(client, {**ASKED, "messages": long}, 400)
        assert error["code"] == "context_length_exceeded"
        assert (await client.post(CHAT, json={**ASKED, "user": "u" * 70_000})).status_code == 200


async def test_a_timeout_that_passes_is_told(client_of):
    with endless_engine() as engine:
        async with client_of(engine) as client:
            body = {"model": "endless", "messages": QUESTION, "max_tokens": 1500, "sda": {"timeout": 0.01}}
            late = await client.post(CHAT, json=body)
            assert (late.status_code, late.json()["error"]["code"]) == (408, "timeout")
            assert late.headers["x-should-retry"] == "false", "OpenAI's clients would wait as long again, twice"
            reply = await client.post(CHAT, json={**body, "stream": True, "sda": {"timeout": 0.2}})
            last = events_of(reply.text)[-2] if reply.status_code == 200 else reply.json()
            assert last["error"]["code"] == "timeout"
            assert engine.stats().requests == 0


async def test_one_request_more_than_the_engine_takes_is_told_to_come_again(client_of):
    with endless_engine(max_requests=1) as engine:
        async with client_of(engine) as client:
            body = {"model": "endless", "messages": QUESTION, "max_tokens": 20, "n": 2}
            reply = await client.post(CHAT, json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
            assert int(reply.headers["retry-after"]) > 0
            assert reply.headers["x-should-retry"] == "true"
            assert engine.stats().requests == 0, "the first failure cancels the others"


async def test_a_failed_rating_is_told_and_counted_without_its_cause(client_of, engine):
    judge = ScriptedEvaluator([EvaluationError("the canary at http://10.0.0.1")])
    async with client_of(engine, evaluators={"judge": judge}, alignment="honesty") as client:
        body = {"model": "tiny-llama", "messages": QUESTION, "max_tokens": 5, "sda": {"evaluator": "judge"}}
        error = await refusal(client, body, 502)
        taken = await client.post(CHAT, json={**body, "sda": {"evaluator": "judge", "on_evaluator_error": "fixed"}})
        numbers = (await client.get("/metrics")).text
    assert error["code"] == "evaluation_failed"
    assert error["sda"]["base_response"]
    assert taken.json()["sda"]["score"]["fallback"] == "fixed"
    assert "canary" not in json.dumps(error) + taken.text
    assert 'sda_evaluator_failures_total{evaluator="judge"} 2.0' in numbers


async def test_a_closed_engine_is_told_as_such(client_of):
    engine = tiny_engine()
    engine.close()
    async with client_of(engine) as client:
        error = await refusal(client, {"model": "tiny-llama", "messages": QUESTION}, 503)
    assert error["code"] == "shutting_down"


async def test_metrics_count_answers_and_their_tokens(client_of):
    with ScriptedEngine("A short answer.") as engine:
        async with client_of(engine) as client:
            whole = (await client.post(CHAT, json=ASKED)).json()["usage"]
            await client.post(CHAT, json={**ASKED, "stream": True})
            numbers = (await client.get("/metrics")).text
    assert 'sda_answers_total{finish_reason="stop"} 2.0' in numbers
    assert f"sda_completion_tokens_total {2.0 * whole['completion_tokens']}" in numbers
    assert f"sda_prompt_tokens_total {2.0 * whole['prompt_tokens']}" in numbers
    assert "sda_time_to_first_token_seconds_count 1.0" in numbers, "of the stream, whose first token was seen"
    assert "sda_time_per_output_token_seconds_count 1.0" in numbers
    assert "sda_cancelled_requests_total 0.0" in numbers


async def test_for_whom_a_client_asks_stands_in_the_log_and_nowhere_else(client_of, caplog):
    caplog.set_level(logging.INFO, "sda_integrations.server.records")
    who = {"user": "ann\nforged line", "safety_identifier": "x" * 200}
    async with client_of() as client:
        reply = await client.post(CHAT, json={**ASKED, **who}, headers={"x-request-id": "r1"})
        numbers = await client.get("/metrics")
    (line,) = [message for message in caplog.messages if "r1" in message]
    assert "request r1, user 'ann\\nforged line / xxx" in line
    assert "x" * 129 not in line
    assert "ann" not in reply.text + numbers.text


async def test_openapi_describes_both_routes(client_of):
    async with client_of() as client:
        told = (await client.get("/openapi.json")).json()
    for path, model, reply in (
        (CHAT, "ChatRequest", "ChatReply"),
        ("/v1/completions", "CompletionRequest", "TextReply"),
    ):
        route = told["paths"][path]["post"]
        assert route["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(model)
        assert route["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(reply)
        assert "text/event-stream" in route["responses"]["200"]["content"]
        assert route["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorReply")
    schemas = told["components"]["schemas"]
    assert "messages" in schemas["asked.ChatRequest"]["properties"]
    assert "usage" in schemas["ChatReply"]["properties"]
