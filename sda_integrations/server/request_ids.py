"""A name for every request, and the headers that every reply has. Pure ASGI."""

import re
from collections.abc import Sequence
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
_TAKEN_OVER = re.compile(rb"[\x21-\x7e]{1,128}")
_EVERY_REPLY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class RequestIds:
    """Gives each request an id: its own `x-request-id` where that can stand in a log, else a new one.

    It stands in scope["state"]["request_id"] and in the reply. The reply also gets the headers that tell browsers to
    guess, keep, frame and run nothing; one that has them already keeps its own.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope["headers"]) or uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                for name, value in _EVERY_REPLY.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_id)


def _given_id(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    given = [value for name, value in headers if name == REQUEST_ID.encode()]
    return given[0].decode() if len(given) == 1 and _TAKEN_OVER.fullmatch(given[0]) else None
