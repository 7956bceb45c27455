"""Streams that are closed, tasks that are cancelled, deadlines that pass and engines that are closed."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from sda_engine.errors import EngineClosedError, RequestTimeoutError
from tests.conftest import user
from tests.sda_engine.remote.scripted import DONE, whole

QUESTION = user("Is the earth flat?")
SOON = 10  # seconds within which a busy machine sees a closed connection


def test_closing_a_stream_closes_its_connection(server) -> None:
    server.script = [server.endless]
    stream = server.engine().stream(QUESTION)
    next(stream)
    stream.close()
    assert server.left.wait(SOON)


async def test_closing_an_asynchronous_stream_closes_its_connection(server) -> None:
    server.script = [server.endless]
    stream = server.engine().astream(QUESTION)
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(server.left.wait, SOON)


@pytest.mark.parametrize("way", ["agenerate", "astream"])
async def test_cancelling_a_task_closes_its_connection(server, way) -> None:
    server.script = [server.endless]
    engine = server.engine()

    async def read() -> None:
        async for _ in engine.astream(QUESTION):
            pass

    task = asyncio.create_task(engine.agenerate(QUESTION) if way == "agenerate" else read())
    assert await asyncio.to_thread(server.arrived.acquire, timeout=SOON)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left.wait, SOON)


async def test_others_go_on_when_one_is_cancelled(server) -> None:
    engine = server.engine()
    server.script = [server.hang, whole()]
    given_up = asyncio.create_task(engine.agenerate(QUESTION))
    assert await asyncio.to_thread(server.arrived.acquire, timeout=SOON)
    others = [asyncio.create_task(engine.agenerate(QUESTION)) for _ in range(3)]
    given_up.cancel()
    assert [done.text for done in await asyncio.gather(*others)] == [DONE.text] * 3


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_the_deadline_holds_against_servers_that_hang_and_drip(server, fault) -> None:
    server.script = [getattr(server, fault)]
    with pytest.raises(RequestTimeoutError, match="timeout"):
        server.engine().generate(QUESTION, timeout=0.05)
    assert server.calls == 1


def test_the_deadline_holds_in_the_middle_of_a_stream(server) -> None:
    server.script = [server.endless]
    stream = server.engine().stream(QUESTION, timeout=0.3)
    assert next(stream).text == "It "
    with pytest.raises(RequestTimeoutError):
        next(stream)
    assert server.left.wait(SOON)


async def test_a_closed_engine_ends_its_requests_at_once_and_takes_no_more(server) -> None:
    server.script = [server.endless]
    engine = server.engine()
    stream = engine.astream(QUESTION)
    assert (await anext(stream)).text == "It "
    server.script = [server.hang]
    waiting = asyncio.create_task(engine.agenerate(QUESTION))
    assert await asyncio.to_thread(lambda: [server.arrived.acquire(timeout=SOON) for _ in range(2)]) == [True, True]
    with engine:
        pass
    assert engine.closed
    with pytest.raises(EngineClosedError) as caught:
        await anext(stream)
    assert caught.value.partial == "It "
    with pytest.raises(EngineClosedError):
        await waiting
    for ask in (engine.generate, lambda chat: list(engine.stream(chat)), lambda _: engine.encode("a")):
        with pytest.raises(EngineClosedError, match="RemoteEngine"):
            ask(QUESTION)
    engine.close()


def test_closing_one_engine_leaves_those_of_the_same_server_alone(server) -> None:
    one, other = server.engine(), server.engine()
    server.script = [server.hang, whole()]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(one.generate, QUESTION)
        assert server.arrived.acquire(timeout=SOON)
        one.close()
        with pytest.raises(EngineClosedError):
            waiting.result(SOON)
    assert other.generate(QUESTION).text == DONE.text


def test_an_engine_that_nobody_has_any_more_leaves_no_thread(server) -> None:
    before = set(threading.enumerate())
    engine = server.engine(api_key="a-key-of-its-own")
    engine.generate(QUESTION)
    (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "sda-remote")
    connection = weakref.ref(engine._caller._connection)
    del engine
    gc.collect()
    assert connection() is None
    thread.join(SOON)
    assert not thread.is_alive()
