"""Running an application: uvicorn in one process, with an end that lets running requests finish.

One process, since a model is loaded once in each: two workers would hold it twice, and share neither their batch nor
what is stored of prompts. More machines or cards are served by more servers behind a balancer.
"""

import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from sda_engine.errors import ConfigError
from sda_integrations.server.draining import Draining
from sda_integrations.server.service import Service

logger = logging.getLogger(__name__)

_SECONDS_TO_UNWIND = 5  # for requests that were cancelled to free their rows and tell their clients


class GracefulServer(uvicorn.Server):
    """Ends in two steps. Told to end, it refuses new requests and lets the others run, while its socket still answers.

    After the last of them, or after its seconds, what is left is cancelled, and the socket is closed. Told a second
    time, it ends at once.

    Args:
        config: of uvicorn.
        draining: which requests run, and whether new ones are refused.
        seconds: how long requests may go on.
        on_listening: called once when connections are taken.
    """

    def __init__(
        self, config: uvicorn.Config, draining: Draining, seconds: float, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._draining = draining
        self._seconds = seconds
        self._deadline: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and tell so."""
        await super().startup(sockets)
        self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. It is not raised again at the end: a server that has ended as it was told has not failed."""
        if self._draining.begun:
            self.should_exit = self.force_exit = True
        self._draining.begin()

    async def on_tick(self, counter: int) -> bool:
        """Look after the end, ten times a second."""
        if self.force_exit:
            self._draining.stop()  # their clients are told in the moment that uvicorn then waits
        elif self._draining.begun:
            self._go_on_ending()
        return await super().on_tick(counter)

    def _go_on_ending(self) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
            logger.info("Told to end: %d requests may go on for %g s.", self._draining.running, self._seconds)
        if not self._draining.running or now > self._deadline + _SECONDS_TO_UNWIND:
            self.should_exit = True
        elif now >= self._deadline and not self._draining.stopped:
            logger.warning("%d requests still run and are cancelled.", self._draining.running)
            self._draining.stop()


def make_server(app: FastAPI, on_listening: Callable[[], None] = lambda: None) -> GracefulServer:
    """The server of an application that `make_app` made. Its `run` and `serve` take the sockets to listen at.

    Args:
        app: the application.
        on_listening: called once when connections are taken.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http="h11",  # whose limit of headers is known
        ws="none",
        lifespan="off",
        log_config=None,  # logging is the process's matter
        access_log=False,  # `records` writes it, with the id of each request
        server_header=False,
        proxy_headers=False,  # nothing here looks at a client's address
        h11_max_incomplete_event_size=service.settings.limits.header_bytes,
        timeout_graceful_shutdown=_SECONDS_TO_UNWIND,
    )
    return GracefulServer(config, service.draining, service.settings.shutdown_seconds, on_listening)


def bind(host: str, port: int) -> socket.socket:
    """A socket of an address, before anybody is answered there: connections are refused until a server listens.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a socket answers, for people: http://host:port."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"The server cannot listen at host {host!r}, port {port}: {error.strerror}. Choose another --port, or an "
        f"address of this machine."
    )
