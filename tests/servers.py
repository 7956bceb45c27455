"""Servers for tests, at a free port of the loopback: uvicorn in a thread of this process, or `sda serve` itself."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from sda_engine.engine import SteeringEngine
from sda_integrations.server import ServerSettings, make_app, make_server
from sda_integrations.server.serving import bind, url_of

COMMAND = "from sda_engine.cli import main; main()"


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


@contextmanager
def sda_serve(*arguments: str, api_key: str) -> Iterator[str]:
    """`sda serve` in a process of its own, as its address. It takes ten seconds, most of them imports.

    Args:
        arguments: of the command; the port is a free one.
        api_key: what its clients have to bring.
    """
    command = [sys.executable, "-c", COMMAND, "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SDA_API_KEY": api_key}
    said: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            found = None
            for line in process.stderr:
                said.append(line)
                if found := re.search(r" at (http://\S+)/v1,", line):
                    break
            assert found, f"it ended before it listened: {said}"
            rest = threading.Thread(target=lambda: said.extend(process.stderr))  # a full pipe would hold the server up
            rest.start()
            yield found[1]
        finally:
            process.terminate()
        rest.join()
    assert process.returncode == 0, said
