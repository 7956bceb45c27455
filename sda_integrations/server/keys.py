"""API keys: who may ask, and a salt of their own for what is stored of their prompts. Pure ASGI."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from sda_integrations.server.replies import error_response

OPEN_ROUTES = frozenset({"/health"})
PAGE = "/"
"""The one route that a browser opens by itself, and so the one where it may ask its user for the key."""


class ApiKeys:
    """The keys of which a request must bring one. Only their hashes are kept.

    Args:
        keys: the keys; none lets anybody in.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._digests = [_digest(key.get_secret_value().encode()) for key in keys]
        self._secret = secrets.token_bytes(32)  # of this process: salts tell nothing of keys, and mean nothing later

    @property
    def needed(self) -> bool:
        """Whether a request must bring one."""
        return bool(self._digests)

    def admits(self, key: bytes | None) -> bool:
        """Whether a key is one of them. It takes as long for any key, whichever are known."""
        given = _digest(key or b"")
        known = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them: no early end
        return key is not None and any(known)

    def salt_of(self, key: bytes) -> str:
        """What the stored prefixes of a key's prompts are salted with, so that no other key can find them."""
        return hmac.new(self._secret, key, hashlib.sha256).hexdigest()


class RequireKey:
    """Lets requests through that bring a key, and says in scope["state"]["cache_salt"] whose they are.

    The page at / may also bring it as the password of HTTP Basic, for which browsers ask. Elsewhere that is no way in:
    a foreign page could have the browser send it along.

    Args:
        app: what it guards.
        keys: the keys.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one request."""
        if scope["type"] != "http" or not self._keys.needed or scope["path"] in OPEN_ROUTES:
            await self._app(scope, receive, send)
            return
        is_page = scope["path"] == PAGE
        key = _brought_key(scope["headers"], basic=is_page)
        if self._keys.admits(key) and key is not None:
            scope["state"]["cache_salt"] = self._keys.salt_of(key)
            await self._app(scope, receive, send)
            return
        refusal = error_response(
            401,
            "The request has no key, or one that this server does not know. Send it in the header 'Authorization: "
            "Bearer KEY'.",
            type="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": 'Basic realm="sda", charset="UTF-8"' if is_page else 'Bearer realm="sda"'},
        )
        await refusal(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _brought_key(headers: Sequence[tuple[bytes, bytes]], *, basic: bool) -> bytes | None:
    """The key that a request brings; None where it brings none, or several."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, rest = given[0].partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if basic and scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None
