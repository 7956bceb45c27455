"""Limits of a request's headers and body, before anything reads them. Pure ASGI."""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sda_engine.errors import ConfigError
from sda_integrations.server.replies import error_response
from sda_integrations.server.settings import ServerLimits


class LimitRequests:
    """Refuses requests with too many headers, or too long or compressed a body, and reads the body before anything else runs.

    Bytes are counted as they come: the length that a request states is only believed where it is too long itself.
    Headers that do not end are the connection's matter, see `serving`.

    Args:
        app: what answers.
        limits: how many and how long.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        length = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
        length += sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._limits.headers or length > self._limits.header_bytes:
            refusal = error_response(
                431,
                f"The request has {len(headers)} headers of {length} bytes, its path included, and this server takes "
                f"{self._limits.headers} of {self._limits.header_bytes} bytes: send fewer and shorter ones.",
                code="headers_too_large",
                headers={"connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        if any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in headers):
            await self._refuse_encoding(scope, receive, send)
            return
        stated = next((value for name, value in headers if name == b"content-length"), b"0")
        too_long = stated.isdigit() and int(stated[:20]) > self._limits.body_bytes
        try:
            body = None if too_long else await self._read(receive)
        except ClientDisconnect:
            return
        if body is None:
            await self._refuse_body(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where it is too long.

        Raises:
            ClientDisconnect: the client went away before it was whole.
        """
        read = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            read += message.get("body", b"")
            if len(read) > self._limits.body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(read)

    async def _refuse_encoding(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A compressed body is not unpacked: how long it is would be known too late."""
        refusal = error_response(
            415,
            "The body of the request is encoded (header Content-Encoding), and this server takes none but plain ones: "
            "send the JSON as it is.",
            code="unsupported_encoding",
            headers={"accept-encoding": "identity", "connection": "close"},
        )
        await refusal(scope, receive, send)

    async def _refuse_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = error_response(
            413,
            f"The body of the request has more than {self._limits.body_bytes} bytes, which is this server's limit: "
            f"send fewer or smaller messages and pictures.",
            code="request_too_large",
            headers={"connection": "close"},  # what is left of the body shall not be read as the next request
        )
        await refusal(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """What gives the body as one message, and then whatever else comes, such as the news that the client is gone."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def check_count(field: str, count: int, most: int) -> None:
    """Refuse a request that holds too many of something.

    Raises:
        ConfigError: it holds more than `most`.
    """
    if count > most:
        raise ConfigError(f"{field} cannot be {count} long: this server takes {most} at most.", field=field)
