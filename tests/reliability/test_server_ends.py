"""Requirement 30: a server that is told to end while it is busy, as clients of RemoteEngine see it."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
import pytest

from sda_engine import RemoteEngine, Sampling, Steering
from sda_engine.errors import EngineClosedError
from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app
from sda_integrations.server.serving import url_of
from tests.conftest import user
from tests.sda_integrations.server.answers import Gate, endless_engine, wait_until
from tests.servers import serving, serving_app

QUESTION = user("what is in the library?")
TOKENS = 100
ASKED = {"alignment": "honesty", "sampling": Sampling(max_new_tokens=TOKENS, seed=1)}
STREAMS = WHOLE = 3


class Busy:
    """A server whose tokens wait at a gate, six clients that wait for answers, and what has come to those of streams.

    Attributes:
        answers: what comes of each client in the end: a Completion, or an error.
        heard: the text so far of each stream.
    """

    def __init__(self, url, server, engine, gate):
        self.url, self.server, self.gate = f"{url}/v1", server, gate
        self.remote = RemoteEngine(self.url, model="endless", max_retries=0)
        self.heard = [""] * STREAMS
        self._threads = ThreadPoolExecutor(STREAMS + WHOLE)
        self.answers = [self._threads.submit(self._stream, number) for number in range(STREAMS)]
        self.answers += [self._threads.submit(self.remote.generate, QUESTION, **ASKED) for _ in range(WHOLE)]
        wait_until(lambda: engine.stats().requests == STREAMS + WHOLE and gate.seen)
        wait_until(self._each_stream_has_begun)

    def _each_stream_has_begun(self):
        self.gate.let_through(1)
        return all(self.heard)

    def _stream(self, number):
        for piece in self.remote.stream(QUESTION, **ASKED):
            self.heard[number] += piece.text
        return piece.completion

    def told_to_end(self):
        self.server.handle_exit(signal.SIGTERM, None)

    def close(self):
        self.gate.let_through(10_000)
        self._threads.shutdown()
        self.remote.close()


@pytest.fixture
def busy(request):
    """One that may go on for so many seconds once it is told to end."""
    gate = Gate()
    settings = ServerSettings(
        steering=Steering(temperature_schedule=gate),
        sampling=Sampling(temperature=2.0),
        shutdown_seconds=request.param,
    )
    with endless_engine() as engine, serving_app(make_app(engine, settings)) as (url, server):
        busy = Busy(url, server, engine, gate)
        yield busy
        busy.close()
        wait_until(lambda: engine.stats().requests == engine.stats().rows == 0)


@pytest.mark.parametrize("busy", [3600], indirect=True)
def test_what_runs_ends_whole_while_new_requests_get_an_error_of_their_kind(busy):
    busy.told_to_end()
    with pytest.raises(EngineClosedError, match="shutting down"):
        busy.remote.generate(QUESTION, **ASKED)
    with pytest.raises(EngineClosedError, match="shutting down"):
        next(busy.remote.stream(QUESTION, **ASKED))
    refused = httpx.post(f"{busy.url}/chat/completions", json={"model": "endless", "messages": QUESTION})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert not any(answer.done() for answer in busy.answers)
    busy.gate.let_through(10_000)
    done = [answer.result(60) for answer in busy.answers]
    assert [(one.finish_reason, one.usage.completion_tokens) for one in done] == [("length", TOKENS)] * len(done)
    assert [one.text for one in done[:STREAMS]] == busy.heard


@pytest.mark.parametrize("busy", [0], indirect=True)
def test_after_the_limit_each_client_gets_an_error_of_its_kind_with_what_had_come(busy):
    busy.told_to_end()
    errors = [answer.exception(60) for answer in busy.answers]
    assert {type(error) for error in errors} == {EngineClosedError}
    assert [error.partial for error in errors] == busy.heard + [""] * WHOLE


# --- The next server


async def pass_on(reader, writer):
    try:
        while part := await reader.read(65_536):
            writer.write(part)
    finally:
        writer.close()


@asynccontextmanager
async def balanced(first, others):
    """A balancer that hands its first connection to one server and all others to another: its address, and a list
    that has a task of each connection."""
    connections = []

    async def connect(reader, writer):
        target = httpx.URL(others if connections else first)
        connections.append(asyncio.current_task())
        there, back = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    balancer = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield url_of(balancer.sockets[0]), connections
    balancer.close()
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def whole(engine):
    return await engine.agenerate(QUESTION, **ASKED)


async def in_pieces(engine):
    pieces = [piece async for piece in engine.astream(QUESTION, **ASKED)]
    return pieces[-1].completion


@pytest.mark.parametrize("busy", [3600], indirect=True)
@pytest.mark.parametrize("ask", [whole, in_pieces])
async def test_a_client_that_is_sent_away_finds_the_next_server_by_itself(monkeypatch, busy, ask):
    monkeypatch.setattr("sda_integrations.server.draining.SECONDS_TO_NEXT_TRY", 0)
    busy.told_to_end()
    with ScriptedEngine("From the next one.") as other, serving(other, served_model_name="endless") as next_url:
        async with balanced(busy.url, next_url) as (url, connections):
            with RemoteEngine(f"{url}/v1", model="endless") as remote:
                done = await ask(remote)
            assert len(connections) == 2
    assert done.text == "From the next one."
    assert len(other.requests) == 1
    assert not any(answer.done() for answer in busy.answers)
