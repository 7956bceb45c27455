"""One line of the log, and one count in the metrics, for every request. Pure ASGI."""

import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sda_integrations.server.metrics import Metrics

logger = logging.getLogger(__name__)

GONE = 499
"""What stands in place of a status where the client went away before there was one."""


class RecordRequests:
    """Logs how each request ended: method, path, status, seconds, id, and for whom its client asks, where it says so.

    Never the rest of its body, its query or its key.

    Args:
        app: what answers.
        metrics: where it is counted.
        paths: of the routes that there are.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = GONE, time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.began()
        try:
            await self._app(scope, receive, note_status)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.ended(self._route_of(scope), status, seconds)
            path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:200]  # still percent-encoded
            state = scope["state"]
            user = f", user {state['user']!r}" if state.get("user") else ""  # quoted, so that it adds no line
            logger.info(
                "%s %s %d in %.3f s, request %s%s", scope["method"], path, status, seconds, state["request_id"], user
            )

    def _route_of(self, scope: Scope) -> str:
        """The route's path with its parameters by name, so that clients cannot make up labels without end."""
        route = getattr(scope.get("route"), "path", None)
        if isinstance(route, str):
            return route
        return scope["path"] if scope["path"] in self._paths else "other"  # it was refused on the way
