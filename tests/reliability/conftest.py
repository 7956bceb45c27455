"""Fixtures of judges that fail, over HTTP and below it."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.judges import clean_environment, judge, quick_retries, server

__all__ = ["clean_environment", "judge", "quick_retries", "raw_server", "server"]


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def make(*answer: Callable[[socket.socket], None]) -> RawServer:
        servers.append(RawServer(*answer))
        return servers[-1]

    yield make
    for each in servers:
        each.close()
