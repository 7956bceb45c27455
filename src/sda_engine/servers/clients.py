"""Clients of OpenAI's SDK that send a key to one server alone, follow no redirect and read bounded replies."""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache

import httpx2
import openai
from pydantic import SecretStr

# What a server of the user's own is sent; the SDK would add OPENAI_ORG_ID and OPENAI_CUSTOM_HEADERS
_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-request-id",
        "x-stainless-raw-response",  # by this one the SDK itself knows that the caller wants the raw reply
    }
)


def open_client(
    url: str,
    key: SecretStr,
    *,
    most_bytes: int,
    refuse: Callable[[str], Exception],
    send_foreign_headers: bool = False,
    timeout: httpx2.Timeout | None = None,
) -> openai.AsyncOpenAI:
    """A client for one event loop, to be closed by the caller: no retries, no redirects.

    Args:
        url: the API's root.
        key: what authorises.
        most_bytes: of a reply; what comes after them is never read.
        refuse: makes the error for a reply that is too long or compressed.
        send_foreign_headers: whether what the SDK takes from the environment goes along, which is meant for OpenAI.
        timeout: for connecting, and for each wait; none by default.
    """
    secret = key.get_secret_value()
    bound = _Bound(most_bytes, refuse)
    return openai.AsyncOpenAI(
        api_key=secret,
        base_url=url,
        timeout=timeout,
        max_retries=0,
        default_headers={
            "Authorization": f"Bearer {secret}",  # else one in OPENAI_CUSTOM_HEADERS would win
            "Accept-Encoding": "identity",  # a compressed reply could grow a thousandfold before it is measured
        },
        http_client=openai.DefaultAsyncHttpxClient(
            verify=_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            follow_redirects=False,
            event_hooks={
                "request": [] if send_foreign_headers else [_drop_foreign_headers],
                "response": [bound.apply],
            },
        ),
    )


@lru_cache(maxsize=4)
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """What HTTPX trusts with these two variables of the environment; loading it takes a tenth of a second or two."""
    return httpx2.create_ssl_context()


async def _drop_foreign_headers(request: "httpx2.Request") -> None:
    for header in set(request.headers) - _HEADERS:
        del request.headers[header]


class _Bound:
    """How long a reply may be."""

    def __init__(self, most_bytes: int, refuse: Callable[[str], Exception]) -> None:
        self._most_bytes, self._refuse = most_bytes, refuse

    async def apply(self, response: httpx2.Response) -> None:
        """Have a reply end with an error where it would be longer."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise self._refuse(
                f"The server's reply is compressed ({encoding[:20]!r}), though an uncompressed one was asked for. "
                f"Turn compression off for the server, or for the proxy before it."
            )
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, self.check)

    def check(self, received: int) -> None:
        """Refuse so many bytes, if they are too many."""
        if received > self._most_bytes:
            raise self._refuse(f"The server's reply has more than {self._most_bytes // 1024} KiB.")


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply's bytes, as long as they are not too many: what comes after them is never read."""

    def __init__(self, stream: httpx2.AsyncByteStream, check: Callable[[int], None]) -> None:
        self._stream, self._check = stream, check

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._stream:
            received += len(chunk)
            self._check(received)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
