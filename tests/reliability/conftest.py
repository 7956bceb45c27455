"""Fixtures of judges that fail, over HTTP and below it."""

import socket
from collections.abc import Callable, Iterator

import pytest
from pytest_httpserver import HTTPServer
from tenacity import wait_none

from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.test_openai import Judge, judge_on, serve

server = pytest.fixture(serve, scope="module", name="server")


@pytest.fixture
def judge(server: HTTPServer) -> Iterator[Judge]:
    yield from judge_on(server)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sda_engine.evaluators.retries._BACKOFF", wait_none())


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def make(*answer: Callable[[socket.socket], None]) -> RawServer:
        servers.append(RawServer(*answer))
        return servers[-1]

    yield make
    for each in servers:
        each.close()
