"""Web pages of other origins, which a server without keys cannot tell from its user by anything else. Pure ASGI."""

from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from sda_integrations.server.replies import error_response


class RefuseForeignPages:
    """Refuses what a browser sends for a page of another origin, unless the operator named that origin.

    Without CORS such a page cannot read the answer, but it could have the server of whoever looks at it decode without
    end. Where keys are needed, it has none to send.

    Args:
        app: what answers.
        origins: those that may ask; "*" among them lets all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at where one request comes from."""
        if scope["type"] != "http" or self._may_ask(scope["headers"]):
            await self._app(scope, receive, send)
            return
        refusal = error_response(
            403,
            "The request comes from a web page of another origin, and this server takes none of those. Its operator "
            "can name the origin: --cors-origin https://example.org.",
            code="foreign_origin",
        )
        await refusal(scope, receive, send)

    def _may_ask(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        given = dict(headers)
        origin = given.get(b"origin")
        if origin is None or "*" in self._origins:
            return True
        text = origin.decode("latin-1")
        host = text.partition("://")[2]  # an origin has nothing behind it, and what is none is not parsed
        return text in self._origins or host == given.get(b"host", b"").decode("latin-1") != ""
