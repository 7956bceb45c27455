"""JudgeServer: where a rating prompt and its API key may go, and how nothing of them goes anywhere else."""

import ipaddress
import os
import re
from collections.abc import AsyncIterator
from typing import Self

import httpx2
import openai
from pydantic import SecretStr

from sda_engine.errors import ConfigError, EvaluationError

_OPENAI_URL = "https://api.openai.com/v1"
_MAX_REPLY_BYTES = 64 * 1024
_NO_KEY = "not-needed"  # the SDK insists on a key; servers without keys ignore it
_URL = re.compile(
    r"""(?i:https?)://
    (?: \[(?P<ipv6>[^\]%]*)\] | (?P<ipv4>[\d.]+) | [\w-]{1,63}(?:\.[\w-]{1,63})*\.? )
    (?: :(?P<port>\d{1,5}) )?
    (?: /[^\s?#]* )?""",
    re.ASCII | re.VERBOSE,
)
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
        "x-stainless-raw-response",  # by this one the SDK itself knows that the caller wants the raw reply
    }
)


class JudgeServer:
    """An OpenAI-compatible server and the key for it.

    A copy is the object itself, for it never changes. A pickle leaves the key out: once unpickled, the key
    comes from OPENAI_API_KEY where base_url is None, and is missing where one was given for another server.

    Args:
        base_url: the API's root; None means OpenAI itself, whatever OPENAI_BASE_URL says.
        api_key: None means OPENAI_API_KEY where base_url is None, and no real key elsewhere.

    Raises:
        ConfigError: base_url is no plain http(s) URL, the key is no plain ASCII text, or OpenAI's key is
            missing.
    """

    def __init__(self, base_url: str | None = None, api_key: str | SecretStr | None = None) -> None:
        self.base_url = None if base_url is None else _checked_url(base_url)
        self._has_own_key = api_key is not None
        self._key = _environment_key(base_url) if api_key is None else _checked_key(api_key)
        if self._key is None:
            raise ConfigError(
                "OpenAIEvaluator has no API key for OpenAI: set the environment variable OPENAI_API_KEY, "
                "pass api_key, or pass the base_url of a server of your own."
            )

    @property
    def url(self) -> str:
        """The API's root."""
        return self.base_url or _OPENAI_URL

    def __repr__(self) -> str:
        return f"JudgeServer({self.url!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_key": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if self.base_url is None or not self._has_own_key:
            self._key = _environment_key(self.base_url)

    def connect(self) -> openai.AsyncOpenAI:
        """A client for one event loop, to be closed by the caller: no retries, no timeouts, no redirects.

        Raises:
            EvaluationError: the key was left behind in a pickle.
        """
        if self._key is None:
            raise EvaluationError(
                f"The API key for {self.url} was not pickled along with the evaluator. Build the evaluator "
                f"anew with api_key; for OpenAI itself you can also set OPENAI_API_KEY before unpickling."
            )
        key = self._key.get_secret_value()
        hooks = [] if self.base_url is None else [_drop_foreign_headers]
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=self.url,
            timeout=None,
            max_retries=0,
            default_headers={
                "Authorization": f"Bearer {key}",  # else one in OPENAI_CUSTOM_HEADERS would win
                "Accept-Encoding": "identity",  # a compressed reply could grow a thousandfold before it is measured
            },
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"request": hooks, "response": [_bound_reply]}
            ),
        )

    def hide_key(self, text: str) -> str:
        """A text from the server without the key, should the server have echoed it."""
        key = self._key.get_secret_value() if self._key else _NO_KEY
        # A key such as "x" or "EMPTY" protects nothing, and hiding it would garble the text
        return text if key == _NO_KEY or len(key) < 8 else text.replace(key, "[api_key]")

    def hide_key_in(self, error: BaseException) -> None:
        """Hide the key in the text of an exception and of those that it stems from."""
        link: BaseException | None = error
        while link is not None:
            link.args = tuple(self.hide_key(arg) if isinstance(arg, str) else arg for arg in link.args)
            if isinstance(link, openai.APIError):  # tools that report errors dump attributes, too
                link.message = self.hide_key(link.message)
                link.body = self.hide_key(link.body) if isinstance(link.body, str) else None
            link = link.__cause__ or link.__context__


async def _drop_foreign_headers(request: "httpx2.Request") -> None:
    for header in set(request.headers) - _HEADERS:
        del request.headers[header]


async def _bound_reply(response: httpx2.Response) -> None:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise EvaluationError(
            f"The server's reply is compressed ({encoding[:20]!r}), though an uncompressed one was asked for. "
            f"Turn compression off for the judge's server, or for the proxy before it."
        )
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedStream(response.stream)


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply's bytes, as long as they are not too many: what comes after them is never read."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._stream:
            received += len(chunk)
            if received > _MAX_REPLY_BYTES:
                raise EvaluationError(
                    f"The server's reply has more than {_MAX_REPLY_BYTES // 1024} KiB, which no verdict needs."
                )
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _environment_key(base_url: str | None) -> SecretStr | None:
    """OPENAI_API_KEY for OpenAI itself, None if it is not set; for any other server a placeholder."""
    if base_url is not None:
        return SecretStr(_NO_KEY)
    key = os.environ.get("OPENAI_API_KEY")
    return _checked_key(key) if key else None


def _checked_key(api_key: str | SecretStr) -> SecretStr:
    """A key that fits into an HTTP header; the error of a header that does not would show the key."""
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if not (isinstance(key, str) and re.fullmatch(r"[!-~]+", key)):
        raise ConfigError(
            "OpenAIEvaluator.api_key (not shown here) must be a text of printable ASCII characters without "
            "spaces and line ends. Strip what you read from a file; leave it out if the server needs no key."
        )
    return SecretStr(key)


def _checked_url(base_url: str) -> str:
    """A plain URL without anything that could be a secret, and with a host that every HTTP client takes."""
    if not (isinstance(base_url, str) and base_url.isascii() and len(base_url) <= 2000 and _is_plain(base_url)):
        secret = isinstance(base_url, str) and re.search("[@?#]", base_url)
        shown = "what was given (not shown here, since it may hold a secret)" if secret else repr(base_url)
        raise ConfigError(
            f"OpenAIEvaluator.base_url cannot be {shown}: it must be http(s)://host[:port][/path] in ASCII, "
            f"without user name, password, query and fragment, e.g. 'http://localhost:8000/v1'. Keys go into "
            f"api_key."
        )
    return base_url.rstrip("/")


def _is_plain(url: str) -> bool:
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 80) < 65536:
        return False
    try:
        ipaddress.IPv6Address(match["ipv6"] or "::")
        ipaddress.IPv4Address(match["ipv4"] or "0.0.0.0")  # noqa: S104 - nothing is bound to it
    except ValueError:
        return False
    return True
