"""Requirement 30: keys, prompts and the server's own matters show in no reply, metric or line of the log."""

import asyncio
import json
import logging

import httpx
import pytest

from sda_engine.results import Piece
from sda_engine.testing import ScriptedEngine
from tests.conftest import user
from tests.sda_integrations.server.answers import events_of
from tests.servers import serving

KEY, PROMPT = "sk-canary-key-0123456789", "canary-prompt-violet"
SECRET = "canary /secret/path"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "scripted", "max_tokens": 20}
BODIES = {
    CHAT: ASKED | {"messages": user(PROMPT)},
    COMPLETIONS: ASKED | {"prompt": PROMPT},
    "/tokenize": {"messages": user(PROMPT)},
}
WRONG = (
    {"temperature": -1},
    {"surprise": 1},
    {"model": "no-such"},
    {"sda": {"gian": 2}},
    {"sda": {"evaluator": "nobody"}},
    {"messages": [{"role": "user", "content": PROMPT, "extra": 1}]},
    {"messages": [{"role": "user", "content": PROMPT}, {"role": "wizard", "content": "hi"}]},
)


@pytest.fixture
def everything_logged(caplog):
    """All loggers at DEBUG, those included that have a level of their own."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = [(each, each.level) for each in loggers]
    for each in loggers:
        each.setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    yield caplog
    for each, level in before:
        each.setLevel(level)


def shown(reply):
    return f"{reply.status_code} {dict(reply.headers)} {reply.text}"


def test_a_key_and_a_prompt_show_in_no_reply_metric_or_line_of_the_log(scripted, everything_logged):
    with serving(scripted, api_keys=(KEY,)) as url, httpx.Client(base_url=url, timeout=60) as client:
        key = {"authorization": f"Bearer {KEY}"}
        keys = (key, {"authorization": f"Bearer {KEY}x"}, {"authorization": f"Basic {KEY}"}, {"x-api-key": KEY}, {})
        replies = [client.post(path, json=body, headers=each) for path, body in BODIES.items() for each in keys]
        replies += [client.post(CHAT, json=BODIES[CHAT] | {"stream": True}, headers=key)]
        replies += [client.post(CHAT, json=BODIES[CHAT] | wrong, headers=key) for wrong in WRONG]
        replies += [client.post(CHAT, content=json.dumps(BODIES[CHAT])[:-1], headers=key)]
        for path in ("/metrics", "/openapi.json", "/v1/models", "/v1/sda/presets", "/health", "/", "/nowhere"):
            replies += [client.get(path, headers=each) for each in (key, {})]
    asked = {200: 5, 400: 7}
    for status, least in asked.items():
        assert sum(reply.status_code == status for reply in replies) >= least, "it was answered, and refused"
    assert sum(reply.status_code == 401 for reply in replies) >= 12
    lines = [record for record in everything_logged.records if not record.name.startswith(("httpx", "httpcore"))]
    assert len(lines) >= len(replies), "each request has a line"
    ours = "\n".join(f"{each.getMessage()} {each.args} {each.exc_text}" for each in lines)
    for canary in (KEY, PROMPT):
        assert not [reply.request.url for reply in replies if canary in shown(reply)]
        assert canary not in ours


@pytest.fixture
def scripted():
    with ScriptedEngine("A short answer.") as engine:
        yield engine


async def breaks_at_once(*_, **__):
    raise RuntimeError(SECRET)


async def stream_breaks_at_once(*_, **__):
    raise RuntimeError(SECRET)
    yield Piece("never")


async def stream_breaks_later(*_, **__):
    yield Piece("The beginning")
    await asyncio.sleep(0)
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("broken", [stream_breaks_at_once, stream_breaks_later])
def test_an_engine_that_breaks_in_a_way_that_nobody_foresaw_tells_the_log_alone(
    scripted, caplog, monkeypatch, path, answers, broken
):
    monkeypatch.setattr(scripted, "agenerate", breaks_at_once)
    monkeypatch.setattr(scripted, "astream", broken)
    with serving(scripted) as url:
        whole, stream = (
            httpx.post(url + path, json=BODIES[path] | {"n": answers, "stream": streamed}) for streamed in (False, True)
        )
        after = httpx.get(f"{url}/metrics").text
    if broken is stream_breaks_later:
        *_, error, done = events_of(stream.text)
        assert (stream.status_code, done) == (200, "[DONE]")
    else:
        error = stream.json()
        assert stream.status_code == 500
    assert whole.status_code == 500
    assert {each["error"]["code"] for each in (whole.json(), error)} == {"internal_error"}
    assert SECRET not in shown(whole) + shown(stream) + after
    assert "sda_requests_running 1.0" in after, "the one that asks"
    assert caplog.text.count(f"RuntimeError: {SECRET}") == 2, "the operator sees it"


def fails(*_, **__):
    raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/tokenize", "encode", {"prompt": PROMPT}),
        ("/tokenize", "count_prompt_tokens", BODIES["/tokenize"]),
        ("/v1/models", "describe", None),
        ("/v1/models/scripted", "describe", None),
        ("/metrics", "stats", None),
    ],
)
def test_a_plain_route_that_breaks_tells_the_log_alone(scripted, caplog, monkeypatch, path, method, body):
    with serving(scripted) as url:
        monkeypatch.setattr(scripted, method, fails)
        reply = httpx.get(url + path) if body is None else httpx.post(url + path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert SECRET not in shown(reply)
    assert f"RuntimeError: {SECRET}" in caplog.text


# --- What is stored for one key

STORED = {
    "plain": (CHAT, BODIES[CHAT] | {"sda": {"alignment": None}}),
    "avoiding": (CHAT, BODIES[CHAT] | {"sda": {"alignment": {"instruction": "be kind", "avoid": "be rude"}}}),
    "streamed": (CHAT, BODIES[CHAT] | {"stream": True, "stream_options": {"include_usage": True}}),
    "rated": (CHAT, BODIES[CHAT] | {"sda": {"alignment": "honesty", "evaluator": "contrastive"}}),
    "completion": (COMPLETIONS, BODIES[COMPLETIONS] | {"model": "scripted:empathy"}),
}


def reused(reply):
    """How many tokens of its prompt a reply says were not computed again."""
    body = reply.json() if reply.text.startswith("{") else events_of(reply.text)[-2]
    return body["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize(("path", "body"), STORED.values(), ids=STORED)
def test_no_token_of_a_prompt_is_reused_for_another_key_on_any_way_to_ask(scripted, path, body):
    with serving(scripted, api_keys=("one", "two")) as url:
        told = [
            reused(httpx.post(url + path, json=body, headers={"authorization": f"Bearer {key}"}))
            for key in ("one", "one", "two", "two", "one")
        ]
    assert [tokens > 0 for tokens in told] == [False, True, False, True, True]
