"""What a stream does when it breaks, when nothing comes, and when the server ends."""

import asyncio
import json
import threading

import httpx
import openai
import pytest

from sda_engine import Sampling, Steering
from sda_engine.results import Piece
from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app
from sda_integrations.server.answering import AnswerResponse
from sda_integrations.server.asked import read_chat
from sda_integrations.server.connections import ClientGoneError, while_connected
from sda_integrations.server.service import Caller
from sda_integrations.server.streaming import pieces_as_they_come
from tests.sda_integrations.server.answers import QUESTION, Gate, connection, endless_engine, events_of, wait_until
from tests.servers import serving, serving_app

CHAT = "/v1/chat/completions"
ASKED = {"model": "scripted", "messages": QUESTION, "stream": True}


def test_a_stream_that_breaks_ends_with_an_error_and_done_and_tells_nothing_of_the_cause():
    with ScriptedEngine([("The beginning", RuntimeError("the canary"))]) as engine, serving(engine) as url:
        reply = httpx.post(url + CHAT, json=ASKED)
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
            pytest.raises(openai.APIError, match="The server failed to answer"),
        ):
            list(client.chat.completions.create(**ASKED))
    *chunks, error, done = events_of(reply.text)
    assert reply.status_code == 200
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "The beginning"
    assert error["error"]["code"] == "server_error"
    assert done == "[DONE]"
    assert "canary" not in reply.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_piece_is_a_reply_of_its_own(stream):
    with ScriptedEngine([RuntimeError("the canary")]) as engine, serving(engine) as url:
        reply = httpx.post(url + CHAT, json={**ASKED, "stream": stream})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "server_error"
    assert "canary" not in reply.text


@pytest.fixture
def gated():
    """A server whose tokens wait at a gate, the gate, and its engine."""
    gate = Gate()
    settings = ServerSettings(
        alignment="honesty",
        steering=Steering(temperature_schedule=gate),
        sampling=Sampling(temperature=2.0),
        shutdown_seconds=0,
    )
    with endless_engine() as engine, serving_app(make_app(engine, settings)) as (url, server):
        yield url, server, gate, engine
        gate.let_through(10_000)


def test_a_silent_stream_says_that_it_goes_on(gated, monkeypatch):
    monkeypatch.setattr("sda_integrations.server.answering.SECONDS_OF_SILENCE", 0.01)
    url, _, gate, _ = gated
    with connection(url, CHAT, **{**ASKED, "model": "endless", "max_tokens": 2}) as client:
        wait_until(lambda: gate.seen == 1)
        gate.let_through(1)
        text = b""
        while b": the answer goes on\n\n" not in text:
            text += client.recv(4096)
        gate.let_through(1)
        while b"[DONE]" not in text:
            text += client.recv(4096)
    body = text.partition(b"\r\n\r\n")[2]
    assert body.index(b"data: ") < body.index(b": the answer goes on")


def test_a_server_that_ends_tells_the_clients_of_its_streams_and_frees_their_rows(gated):
    url, server, gate, engine = gated
    replies = []
    body = {**ASKED, "model": "endless"}
    client = threading.Thread(target=lambda: replies.append(httpx.post(url + CHAT, json=body, timeout=60)))
    client.start()
    gate.let_through(2)
    wait_until(lambda: gate.seen == 3)
    server.handle_exit(15, None)
    client.join()
    *chunks, error, done = events_of(replies[0].text)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (error["error"]["code"], done) == ("shutting_down", "[DONE]")
    assert engine.stats().requests == 0


async def test_a_client_that_reads_nothing_holds_no_rows(scripted):
    service = make_app(scripted).state.service
    body = json.dumps({**ASKED, "n": 2}).encode()
    response = AnswerResponse(read_chat(body, service), service, Caller("id", None))
    sent = []

    async def send(message):
        sent.append(message)
        if len(sent) > 1:
            await asyncio.Event().wait()

    request = asyncio.ensure_future(response({"type": "http"}, nothing_comes, send))
    while len(sent) < 2 or scripted.stats().requests:
        await asyncio.sleep(0.002)
    assert len(sent) == 2
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


async def nothing_comes():
    await asyncio.Event().wait()


# --- Reading several streams at once


async def stream_of(*pieces, ended=None, failure=None, waits=False):
    try:
        for text in pieces:
            await asyncio.sleep(0)
            yield Piece(text)
        if failure is not None:
            raise failure
        if waits:
            await asyncio.Event().wait()
    finally:
        if ended is not None:
            ended.append(True)


async def test_pieces_come_in_the_order_of_each_stream():
    batches = [batch async for batch in pieces_as_they_come([stream_of("a", "b"), stream_of("c", "d")], 60)]
    come = [(number, piece.text) for batch in batches for number, piece in batch]
    assert [text for number, text in come if number == 0] == ["a", "b"]
    assert [text for number, text in come if number == 1] == ["c", "d"]
    assert [number for number, _ in come] != [0, 0, 1, 1]


async def test_the_first_failure_comes_behind_its_pieces_and_ends_the_other_streams():
    ended = []
    streams = [stream_of("a", ended=ended, waits=True), stream_of("b", failure=ValueError("wrong"))]
    come = []

    async def read():
        async for batch in pieces_as_they_come(streams, 60):
            come.extend(piece.text for _, piece in batch)

    with pytest.raises(ValueError, match="wrong"):
        await read()
    assert sorted(come) == ["a", "b"]
    assert ended == [True]


async def test_a_pause_gives_nothing_and_loses_nothing():
    ended = []
    batches = pieces_as_they_come([stream_of("a", ended=ended, waits=True)], 0.001)
    assert [piece.text for _, piece in await anext(batches)] == ["a"]
    assert await anext(batches) == []
    await batches.aclose()
    assert ended == [True]


# --- Work for a client


async def test_work_that_ends_first_gives_its_result():
    async def work():
        return 5

    assert await while_connected(nothing_comes, work()) == 5


async def test_work_has_ended_when_the_client_is_gone():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def hang_up():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGoneError):
        await while_connected(hang_up, work())
    assert ended == [True]


async def test_work_ends_with_the_request_that_is_cancelled():
    began, ended = asyncio.Event(), []

    async def work():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    request = asyncio.ensure_future(while_connected(nothing_comes, work()))
    await began.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert ended == [True]
