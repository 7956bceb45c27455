"""Requirement 30: a server that is told to end while clients wait: running ones, new ones, those past its patience."""

import asyncio
import signal
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import pytest

from sda_engine import RemoteEngine, Sampling, Steering
from sda_engine.errors import EngineClosedError
from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app
from sda_integrations.server.serving import url_of
from tests.conftest import user
from tests.sda_integrations.server.answers import Gate, endless_engine, events_of, wait_until
from tests.servers import serving, serving_app

CHAT = "/v1/chat/completions"
WHOLE, STREAMED = 4, 4
TOKENS = 24
SAMPLING = Sampling(max_new_tokens=TOKENS, temperature=2.0, seed=1)


def asked(number):
    return user(f"What is in room {number} of the library?")


@contextmanager
def gated(gate, **settings):
    """An engine, and a server of it whose steered answers wait at a gate before each token."""
    with endless_engine() as engine:
        some = ServerSettings(
            alignment="honesty", steering=Steering(temperature_schedule=gate), sampling=SAMPLING, **settings
        )
        with serving_app(make_app(engine, some)) as (url, server):
            try:
                yield engine, url, server
            finally:
                gate.let_through(100_000)


def remote(url, **settings):
    return RemoteEngine(f"{url}/v1", model="endless", **settings)


def begin(engine, gate, count):
    """Wait until so many requests have been decoded together for a while. A pass of all goes by the gate at once."""
    wait_until(lambda: engine.stats().requests == count)
    passes = together = 0
    while together < 8:  # of the first tokens, some are parts of letters
        together += engine.stats().rows == 2 * count
        gate.let_through(1)
        passes += 1
        wait_until(lambda: gate.seen > passes)  # noqa: B023 - it waits here
    assert passes < TOKENS


async def whole(engine, number):
    return await engine.agenerate(asked(number), "honesty")


async def in_pieces(engine, number):
    """The answer, or what ended it; and the text of the pieces."""
    text = ""
    try:
        async for piece in engine.astream(asked(number), "honesty"):
            text += piece.text
    except EngineClosedError as error:
        return error, text
    return piece.completion, text


async def test_what_runs_ends_whole_and_what_is_new_is_sent_away():
    gate = Gate()
    with gated(gate) as (engine, url, server), remote(url, max_retries=0) as client:
        running = [asyncio.ensure_future(whole(client, number)) for number in range(WHOLE)]
        running += [asyncio.ensure_future(in_pieces(client, WHOLE + number)) for number in range(STREAMED)]
        await asyncio.to_thread(begin, engine, gate, len(running))
        server.handle_exit(signal.SIGTERM, None)
        for body in ({"stream": False}, {"stream": True}):
            new = await asyncio.to_thread(
                httpx.post, url + CHAT, json={"model": "endless", "messages": asked(0), **body}
            )
            assert (new.status_code, new.json()["error"]["code"]) == (503, "shutting_down")
            assert int(new.headers["retry-after"]) > 0
        for ask in (whole(client, 0), anext(client.astream(asked(0)))):
            with pytest.raises(EngineClosedError) as sent_away:
                await ask
            assert sent_away.value.partial == ""
        assert not any(one.done() for one in running)
        gate.let_through(100_000)
        done = await asyncio.gather(*running)
        wanted = [
            await engine.agenerate(
                asked(number), "honesty", sampling=SAMPLING, steering=Steering(temperature_schedule=gate)
            )
            for number in range(len(running))
        ]
    for number, answer in enumerate(done):
        completion, text = (answer, answer.text) if number < WHOLE else answer
        assert completion.token_ids == wanted[number].token_ids
        assert text == completion.text
        assert completion.usage.completion_tokens == TOKENS


async def test_what_runs_past_the_limit_is_told_so_with_what_came_of_it():
    gate = Gate()
    with gated(gate, shutdown_seconds=0.2) as (engine, url, server), remote(url, max_retries=0) as client:
        wholes = [asyncio.ensure_future(whole(client, number)) for number in range(WHOLE)]
        streams = [asyncio.ensure_future(in_pieces(client, WHOLE + number)) for number in range(STREAMED)]
        body = {"model": "endless", "messages": asked(9), "stream": True, "sda": {"token_ids": True}}
        raw = asyncio.ensure_future(asyncio.to_thread(httpx.post, url + CHAT, json=body, timeout=60))
        count = len(wholes) + len(streams) + 1
        await asyncio.to_thread(begin, engine, gate, count)
        server.handle_exit(signal.SIGTERM, None)
        broken = await asyncio.gather(*streams)
        errors = await asyncio.gather(*wholes, return_exceptions=True)
        reply = await raw
        await asyncio.to_thread(wait_until, lambda: engine.stats().requests == 0)
        seen = gate.seen
        gate.let_through(100_000)
        await asyncio.to_thread(wait_until, lambda: engine.stats().rows == engine.stats().running_tasks == 0)
        assert gate.seen <= seen + 1, "the pass that ran, and no more"
    assert [type(error) for error in errors] == [EngineClosedError] * WHOLE
    for error, text in broken:
        assert isinstance(error, EngineClosedError)
        assert error.partial == text
    assert any(text for _, text in broken)
    *_, told, done = events_of(reply.text)
    assert (told["error"]["code"], done) == ("shutting_down", "[DONE]")


# --- Another server


@asynccontextmanager
async def balanced(first, others):
    """A balancer that hands its first connection to one server and all others to another: its address, and a list
    that has each connection."""
    connections = []

    async def pass_on(reader, writer):
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def connect(reader, writer):
        target = httpx.URL(others if connections else first)
        connections.append(target)
        there = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    balancer = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield url_of(balancer.sockets[0]), connections
    balancer.close()


@pytest.mark.parametrize("ask", [whole, in_pieces])
async def test_a_client_that_is_sent_away_finds_the_next_server_by_itself(monkeypatch, ask):
    monkeypatch.setattr("sda_integrations.server.draining.SECONDS_TO_NEXT_TRY", 0)
    gate = Gate()
    with (
        gated(gate) as (_, ending, server),
        ScriptedEngine("From the next one.") as other,
        serving(other, served_model_name="endless") as url,
        remote(ending, max_retries=0) as busy,
    ):
        running = asyncio.ensure_future(whole(busy, 0))
        await asyncio.to_thread(wait_until, lambda: gate.seen == 1)
        server.handle_exit(signal.SIGTERM, None)
        async with balanced(ending, url) as (balancer, connections):
            with remote(balancer) as client:
                answer = await ask(client, 1)
            assert connections == [ending, url]
        gate.let_through(100_000)
        assert (await running).usage.completion_tokens == TOKENS
    completion = answer if ask is whole else answer[0]
    assert completion.text == "From the next one."
    assert len(other.requests) == 1
