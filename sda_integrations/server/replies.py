"""Error replies in OpenAI's shape, and what a client is told whose reply breaks off."""

import json
import logging
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sda_engine.errors import SDAError
from sda_engine.wire.errors import kind_of, write_error
from sda_engine.wire.replies import ErrorObject

logger = logging.getLogger(__name__)

SECONDS_TO_NEXT_TRY = 5
"""What Retry-After says where the same request may succeed later."""
INTERNAL_ERROR = "The server failed at this request, through no fault of yours. Its log says more under the request id."


class ErrorResponse(Response):
    """An error in OpenAI's shape.

    Args:
        status: of HTTP.
        error: what went wrong.
        headers: further headers.

    Attributes:
        json: the body, which is also the data of an event where a stream breaks.
    """

    media_type = "application/json"

    def __init__(self, status: int, error: ErrorObject, headers: Mapping[str, str] | None = None) -> None:
        told = {name: value for name, value in error.model_dump().items() if name != "sda" or value is not None}
        self.json = json.dumps({"error": told})  # ASCII: a half of a surrogate pair is no UTF-8
        super().__init__(self.json, status, headers)


def error_response(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ErrorResponse:
    """An error of the server itself, as a reply."""
    return ErrorResponse(status, ErrorObject(message=message, type=type, param=param, code=code), headers)


def sda_error_response(error: SDAError, request_id: str) -> ErrorResponse:
    """What a client is told of an error of the engine; what it is not told of the server's own goes to the log."""
    kind = kind_of(error)
    if kind.text is not None:
        logger.warning("Request %s: %s: %s", request_id, type(error).__name__, error, exc_info=kind.status >= 500)
    headers = {"x-should-retry": str(kind.again).lower()}  # OpenAI's clients obey it, and else go by the status alone
    if kind.again:
        headers["retry-after"] = str(SECONDS_TO_NEXT_TRY)
    return ErrorResponse(kind.status, write_error(error).error, headers)


def internal_error() -> ErrorResponse:
    """What a client is told of a fault that nobody foresaw. It says nothing of the fault: only the log does."""
    return error_response(500, INTERNAL_ERROR, type="server_error", code="internal_error")


class WatchedSend:
    """Passes the parts of a reply on, and knows how far it has got.

    Args:
        send: where they go.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.complete = False
        self._streams = False

    async def __call__(self, message: Message) -> None:
        """Pass a part on."""
        if message["type"] == "http.response.start":
            self.started = True
            content_type = Headers(raw=message.get("headers", [])).get("content-type", "")
            self._streams = content_type.startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def end_with(self, error: ErrorResponse, scope: Scope, receive: Receive) -> bool:
        """End the reply with an error, in the place of what has not been sent of it.

        A stream of events gets it as an event, and its usual end. Any other reply that has begun cannot be ended.

        Returns:
            Whether the reply has an end.
        """
        if not self.started:
            await error(scope, receive, self)
        elif self._streams and not self.complete:
            end = f"data: {error.json}\n\ndata: [DONE]\n\n".encode()
            await self({"type": "http.response.body", "body": end, "more_body": False})
        return self.complete


class RefusalError(Exception):
    """A request that the server refuses by itself, without the engine.

    Attributes:
        response: what the client is told.
    """

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.json)
        self.response = response
