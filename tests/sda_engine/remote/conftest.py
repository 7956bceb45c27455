"""The scripted server, for tests of what a client makes of it."""

from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from tenacity import wait_none

from tests.sda_engine.remote.scripted import ScriptedServer


@pytest.fixture(scope="session")
def http() -> Iterator[HTTPServer]:
    server = HTTPServer("127.0.0.1", threaded=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(http: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    for name in ("SDA_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sda_engine.remote.exchange._BACKOFF", wait_none())
    server = ScriptedServer(http)
    yield server
    server.released.set()
    http.clear()
