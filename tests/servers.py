"""Servers for tests: uvicorn in a thread of this process, at a free port of the loopback."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from sda_engine.engine import SteeringEngine
from sda_integrations.server import ServerSettings, make_app, make_server
from sda_integrations.server.serving import bind, url_of


@contextmanager
def serving(engine: SteeringEngine, settings: ServerSettings | None = None, **fields: object) -> Iterator[str]:
    """A server of an engine, as its address: http://127.0.0.1:PORT, to which clients of OpenAI add /v1.

    Args:
        engine: what answers; it stays open.
        settings: of the server; None for those that the fields make.
        fields: of ServerSettings.
    """
    with serving_app(make_app(engine, ServerSettings.of_values(fields) if settings is None else settings)) as (url, _):
        yield url


@contextmanager
def serving_app(app) -> Iterator[tuple[str, uvicorn.Server]]:
    """The same of an application that `make_app` made, with the server itself, for tests of its end."""
    server, listening = make_server(app), threading.Event()
    bound = bind("127.0.0.1", 0)

    async def serve() -> None:
        running = asyncio.ensure_future(server.serve(sockets=[bound]))
        while not server.started and not running.done():
            await asyncio.sleep(0.001)
        listening.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="test-server")
    thread.start()
    listening.wait()
    try:
        yield url_of(bound), server
    finally:
        server.should_exit = True
        thread.join()
