"""Web pages of other origins, which a server without keys cannot tell from its user by anything else. Pure ASGI."""

import ipaddress
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from sda_integrations.server.replies import error_response


class RefuseForeignPages:
    """Refuses what a browser sends for a page of another origin, unless the operator named that origin.

    Without CORS such a page cannot read the answer, but it could have the server of whoever looks at it decode without
    end. Where keys are needed, it has none to send. A page that was loaded under a public name is refused even where it
    seems to be the server's own: whoever owns the name can make it mean this machine once the page has been loaded
    (DNS rebinding).

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
            "The request comes from a web page of another origin, or under a public name, and this server, which has "
            "no keys, takes none of those. Its operator can name the origin: --cors-origin https://example.org.",
            code="foreign_origin",
        )
        await refusal(scope, receive, send)

    def _may_ask(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        given = dict(headers)
        origin = given.get(b"origin")
        if origin is None or "*" in self._origins:
            return True
        text = origin.decode("latin-1")
        own = given.get(b"host", b"").decode("latin-1")
        return text in self._origins or (text.partition("://")[2] == own != "" and not _is_public(own))


def _is_public(host: str) -> bool:
    """Whether a host is a name that somebody on the internet may own: of several parts, and no address."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and not name.endswith((".localhost", ".local"))
    return False
