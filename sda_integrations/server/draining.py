"""The end of a server: requests that run go on for a while, new ones are refused. Pure ASGI."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from sda_integrations.server.replies import SECONDS_TO_NEXT_TRY, ErrorResponse, WatchedSend, error_response

WATCHED_ROUTES = frozenset({"/health", "/metrics"})
"""Routes that answer to the end, so that whoever watches the server can see how it ends."""


class Draining:
    """Whether a server is ending, and which requests it still has.

    Attributes:
        begun: whether new requests are refused.
        stopped: whether those that still ran have been cancelled.
    """

    def __init__(self) -> None:
        self.begun = False
        self.stopped = False
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """How many requests run."""
        return len(self._running)

    def begin(self) -> None:
        """Refuse new requests from here on. It may be called from a signal's handler."""
        self.begun = True

    def stop(self) -> None:
        """Cancel what still runs. Each client is told, in its stream where it has one."""
        self.begun = self.stopped = True
        for task in tuple(self._running):
            task.cancel("the server is ending")

    def enter(self, task: "asyncio.Task[Any]") -> None:
        """Take note of a request that begins."""
        self._running.add(task)

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """Take note of its end."""
        self._running.discard(task)


class DrainRequests:
    """Refuses requests while the server is ending, and tells clients whose requests are cancelled by its end.

    Args:
        app: what answers.
        draining: whether it is ending.
    """

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request, or let it run and be counted."""
        if scope["type"] != "http" or scope["path"] in WATCHED_ROUTES:
            await self._app(scope, receive, send)
            return
        if self._draining.begun:
            await shutting_down()(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        watched = WatchedSend(send)
        self._draining.enter(task)
        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._draining.stopped or not await watched.end_with(shutting_down(), scope, receive):
                raise
            task.uncancel()
        finally:
            self._draining.leave(task)


def shutting_down() -> ErrorResponse:
    """What a client is told while the server is ending."""
    return error_response(
        503,
        "The server is shutting down: ask again in a moment, when the next one runs, or ask another.",
        type="server_error",
        code="shutting_down",
        headers={"retry-after": str(SECONDS_TO_NEXT_TRY), "connection": "close"},
    )
