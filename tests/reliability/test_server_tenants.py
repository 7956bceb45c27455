"""Requirement 30: tenants of one server know nothing of each other, and nobody reads what is not told to him."""

import asyncio
import json
import logging

import httpx
import pytest

from sda_engine import EngineSettings, Sampling, SteeringEngine
from sda_engine.errors import EvaluationError
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from sda_integrations.server import ServerSettings, make_app
from tests.conftest import user
from tests.sda_integrations.server.answers import events_of

ONE, OTHER = "sda-canary-key-of-one-0123456789", "sda-canary-key-of-the-other-0123456789"
PROMPT = "canaryprompt of a tenant who asks what is in the library of the quick brown fox"
CAUSE = "canarycause /secret/path http://10.0.0.1:9/v1"
CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": user(PROMPT), "max_tokens": 3}
SHAPES = {
    "plain": (CHAT, ASKED | {"sda": {"alignment": None}}),
    "steered": (CHAT, ASKED),
    "avoiding": (CHAT, ASKED | {"sda": {"alignment": {"instruction": "be kind", "avoid": "be rude"}}}),
    "streamed": (CHAT, ASKED | {"stream": True, "stream_options": {"include_usage": True}}),
    "rated": (CHAT, ASKED | {"sda": {"evaluator": "contrastive", "on_evaluator_error": "fixed"}}),
    "old": ("/v1/completions", {"model": "tiny:empathy", "prompt": PROMPT, "max_tokens": 3}),
}
FAILING = {"model": "tiny", "messages": user(PROMPT), "sda": {"evaluator": "judge"}, "max_tokens": 3}


@pytest.fixture
def engine():
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(cache_tokens=20_000)) as engine:
        yield engine


@pytest.fixture
def app(engine):
    judge = ScriptedEvaluator([EvaluationError(f"The judge at {CAUSE} answered 500")])
    return make_app(
        engine,
        ServerSettings(
            served_model_name="tiny", api_keys=(ONE, OTHER), alignment="honesty", evaluators={"judge": judge}
        ),
    )


@pytest.fixture
def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://server")


def of(key):
    return {"authorization": f"Bearer {key}"}


def cached(reply):
    """How many tokens of its prompts a reply says were reused."""
    assert reply.status_code == 200, reply.text
    bodies = [reply.json()] if reply.text.startswith("{") else events_of(reply.text)[-2:-1]
    (usage,) = [body["usage"] for body in bodies]
    return usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize(("path", "body"), SHAPES.values(), ids=SHAPES)
async def test_no_token_of_a_prompt_is_reused_for_another_key(client, path, body):
    async with client:
        counts = [cached(await client.post(path, json=body, headers=of(key))) for key in (ONE, ONE, OTHER, OTHER, ONE)]
    assert [count > 0 for count in counts] == [False, True, False, True, True]


async def test_nothing_is_reused_across_keys_that_ask_at_the_same_time(client, engine):
    async with client:
        before = engine.stats().reused_tokens
        asked = [client.post(CHAT, json=ASKED, headers=of(key)) for key in (ONE, OTHER)]
        assert [cached(reply) for reply in await asyncio.gather(*asked)] == [0, 0]
        assert engine.stats().reused_tokens == before


@pytest.mark.parametrize("key", ["", "none", ONE[:-1], ONE + "0", ONE.upper(), f"{ONE} {OTHER}", f"{ONE},{OTHER}"])
async def test_a_wrong_key_asks_the_engine_for_nothing(client, engine, key):
    async with client:
        before = engine.stats()
        for path, body in SHAPES.values():
            reply = await client.post(path, json=body, headers=of(key))
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert engine.stats() == before


async def test_keys_and_prompts_stand_in_no_log_metric_error_or_description(client, caplog):
    caplog.set_level(logging.DEBUG)
    too_long = {**ASKED, "messages": user(PROMPT * 100)}
    async with client:
        for key in (ONE, OTHER):
            for path, body in SHAPES.values():
                await client.post(path, json=body, headers={**of(key), "x-request-id": "r1"})
            await client.post("/tokenize", json={"messages": user(PROMPT)}, headers=of(key))
        refused = [
            await client.post(f"{CHAT}?key={ONE}", json=ASKED),
            await client.post(CHAT, json=ASKED, headers=of(ONE + "x")),
            await client.post(CHAT, json=too_long, headers=of(ONE)),
            await client.post(CHAT, json=FAILING, headers=of(ONE)),
            await client.post(CHAT, json={**FAILING, "stream": True}, headers=of(ONE)),
            await client.post(CHAT, content=json.dumps(ASKED)[:-9], headers=of(ONE)),
        ]
        told = [
            await client.get(path, headers=of(OTHER))
            for path in (
                "/metrics",
                "/openapi.json",
                "/v1/models",
                "/v1/models/tiny",
                "/v1/sda/presets",
                "/",
                "/health",
            )
        ]
    assert [reply.status_code for reply in refused] == [401, 401, 400, 502, 502, 400]
    assert [reply.status_code for reply in told] == [200] * len(told)
    ours = [record for record in caplog.records if record.name != "httpx"]  # that is the client of this test
    records = "".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert "request r1" in records
    for text in (records, *(reply.text + str(reply.headers) for reply in (*refused, *told))):
        assert "sda-canary-key" not in text
        assert "canaryprompt" not in text
    for reply in (*refused, *told):
        assert "canarycause" not in reply.text


# --- Faults that nobody foresaw


def fails(*_, **__):
    raise RuntimeError(CAUSE)


async def fails_in_a_loop(*_, **__):
    raise RuntimeError(CAUSE)


async def fails_in_the_middle(engine, *asked, **settings):
    async for piece in SteeringEngine.astream(engine, *asked, **settings):
        yield piece
        raise RuntimeError(CAUSE)


def breaks_a_pass(engine):
    """The model fails from the second token of an answer on."""
    passes = []

    def count(*_):
        passes.append(1)
        if len(passes) > 1:
            raise RuntimeError(CAUSE)

    engine.model.register_forward_pre_hook(count)


async def ask(app, path, body=None):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=of(ONE)) as client:
        return await (client.get(path) if body is None else client.post(path, json=body))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("fault", ["before", "middle", "pass"])
async def test_no_reply_tells_of_a_fault_and_the_log_does(app, engine, monkeypatch, caplog, stream, path, fault):
    asked = {"messages": user(PROMPT)} if path == CHAT else {"prompt": PROMPT}
    if fault == "pass":
        breaks_a_pass(engine)
    elif not stream:
        monkeypatch.setattr(engine, "agenerate", fails_in_a_loop)
    elif fault == "before":
        monkeypatch.setattr(engine, "astream", fails)
    else:
        monkeypatch.setattr(engine, "astream", lambda *asked, **more: fails_in_the_middle(engine, *asked, **more))
    reply = await ask(app, path, {"model": "tiny", "max_tokens": 5, "stream": stream, **asked})
    if reply.status_code == 200:
        assert stream
        *_, told, done = events_of(reply.text)
        assert done == "[DONE]"
    else:
        assert reply.status_code == 500
        told = reply.json()
    assert told["error"]["type"] == "server_error"
    assert "canary" not in reply.text + str(reply.headers)
    assert "Traceback" not in reply.text
    assert CAUSE in caplog.text
    assert engine.stats().requests == 0


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/tokenize", "encode", {"prompt": PROMPT}),
        ("/tokenize", "count_prompt_tokens", {"messages": user(PROMPT)}),
        ("/v1/models", "describe", None),
        ("/v1/models/tiny", "describe", None),
        ("/metrics", "stats", None),
    ],
)
async def test_no_plain_route_tells_of_a_fault_and_the_log_does(app, engine, monkeypatch, caplog, path, method, body):
    monkeypatch.setattr(engine, method, fails)
    reply = await ask(app, path, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "canary" not in reply.text
    assert CAUSE in caplog.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", [EvaluationError(CAUSE), RuntimeError(CAUSE)], ids=["no score", "its own fault"])
@pytest.mark.parametrize("fallback", ["raise", "fixed"])
async def test_no_reply_tells_what_an_evaluator_failed_of(engine, caplog, stream, failure, fallback):
    judge = ScriptedEvaluator([failure])
    some = ServerSettings(
        served_model_name="tiny", api_keys=(ONE,), evaluators={"judge": judge}, sampling=Sampling(max_new_tokens=3)
    )
    body = {**FAILING, "stream": stream, "sda": {"alignment": "honesty", "evaluator": "judge"}}
    body["sda"]["on_evaluator_error"] = fallback
    app = make_app(engine, some)
    reply = await ask(app, CHAT, body)
    numbers = await ask(app, "/metrics")
    assert judge.requests
    for text in (reply.text, str(reply.headers), numbers.text):
        assert "canary" not in text
    if fallback == "raise":
        assert reply.status_code >= 500
        assert CAUSE in caplog.text
