"""What goes wrong between a client and its server: which error it is, and whether the request is worth another try."""

import json

import httpx2
import openai
from pydantic import SecretStr, ValidationError

from sda_engine.errors import ConfigError, SDAError, ServerError
from sda_engine.servers import hide_key, hide_key_in, retry_after
from sda_engine.wire.errors import may_succeed_later, read_error
from sda_engine.wire.replies import ErrorObject

KEY_VARIABLE = "SDA_API_KEY"
"""The environment variable with the key, where none is given."""

_SHOWN = 300  # characters of what a server says
_PASSING = frozenset({429, 502, 503, 504})
FAULTS = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, json.JSONDecodeError, ValidationError, OSError)
"""What the SDK and the libraries below it raise, and what replies raise that are none."""


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later, of which nothing has come yet."""
    if not isinstance(error, openai.APIStatusError):
        return isinstance(error, openai.APIConnectionError)
    if error.response.headers.get("x-should-retry") == "false":
        return False
    told = _told(error)
    known = None if told is None else may_succeed_later(told)
    return error.status_code in _PASSING if known is None else known


class Explainer:
    """Turns what fails into errors of ours.

    Args:
        url: the server's address, for messages.
        key: which no message may show.
    """

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url, self._key = url, key

    def explain(self, error: Exception, *, request_id: str, began: bool = False, partial: str = "") -> SDAError:
        """The error to raise.

        Args:
            error: one of FAULTS.
            request_id: the request's.
            began: whether the reply had begun.
            partial: the text of the answer as far as it came.
        """
        explained = self._explain(error, request_id, began, partial)
        hide_key_in(error, self._key)  # at the end, since it takes away what the error carries
        return explained

    def _explain(self, error: Exception, request_id: str, began: bool, partial: str) -> SDAError:
        if isinstance(error, openai.APIStatusError):
            return self._refused(error, request_id)
        if type(error) is openai.APIError:
            return self._broken(error, request_id, partial)  # an event of a stream says that it broke
        cause = error.__cause__ or error
        if isinstance(error, (json.JSONDecodeError, ValidationError, openai.APIResponseValidationError)):
            problem = "answered something else than the wire format"
            remedy = "Is base_url the root of an SDA server, which mostly ends in /v1?"
        elif began:
            problem, remedy = "broke off in the middle of its reply", "What came of an answer is in `partial`."
        else:
            problem, remedy = "could not be reached", "Check base_url, the network, and whether the server runs."
            if "[SSL" in str(cause):
                remedy = "Does it speak https at all? `sda serve` by itself speaks http."
        said = self._shown(str(cause) or type(cause).__name__)
        return ServerError(
            f"The server {self._url} {problem}: {said}. {remedy}", partial=partial, request_id=request_id
        )

    def ended_early(self, *, request_id: str, partial: str) -> ServerError:
        """The error of a stream that ended before the answer did."""
        return ServerError(
            f"The server {self._url} ended its stream before the answer was whole. What came of it is in `partial`.",
            partial=partial,
            request_id=request_id,
        )

    def _refused(self, error: openai.APIStatusError, request_id: str) -> SDAError:
        status, told = error.status_code, _told(error)
        said = self._shown(error.response.text if told is None else told.message)
        if status in (401, 403):
            return ConfigError(
                f"The server {self._url} refuses the key ({status}): {said}. Pass the right api_key, or set "
                f"{KEY_VARIABLE}, which is read where none is given: pickles and dumps keep no key.",
                field="api_key",
            )
        if told is not None and (ours := self._ours(told, "")) is not None:
            return ours
        wait = retry_after(error)
        asked = "" if wait is None else f" It asks to wait {wait:g} s."
        return ServerError(
            f"The server {self._url} answered {status}: {said}.{asked} {_remedy(status)}",
            status=status,
            request_id=error.response.headers.get("x-request-id", request_id),
        )

    def _broken(self, error: openai.APIError, request_id: str, partial: str) -> SDAError:
        told = _read(error.body)
        if told is not None and (ours := self._ours(told, partial)) is not None:
            return ours
        said = self._shown(error.message if told is None else told.message)
        return ServerError(
            f"The server {self._url} failed in the middle of an answer: {said}.", partial=partial, request_id=request_id
        )

    def _ours(self, told: ErrorObject, partial: str) -> SDAError | None:
        """The error of ours that a reply tells of; None where that is no more than that the server failed."""
        error = read_error(told.model_copy(update={"message": hide_key(told.message, self._key)}))
        if error is None or type(error) is SDAError:
            return None
        if partial and getattr(error, "partial", None) == "":
            error.partial = partial  # type: ignore[attr-defined]  # as the line above has found
        return error

    def _shown(self, text: str) -> str:
        text = hide_key(text, self._key).strip().rstrip(".")
        return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _told(error: openai.APIStatusError) -> ErrorObject | None:
    """What a reply says of its error, if it is in OpenAI's shape."""
    try:
        body = error.response.json()
    except ValueError:
        return None
    return _read(body.get("error")) if isinstance(body, dict) else None


def _read(body: object) -> ErrorObject | None:
    try:
        return ErrorObject.model_validate(body)
    except ValidationError:
        return None


def _remedy(status: int) -> str:
    if 300 <= status < 400:
        return "Redirects are not followed, lest prompts go astray: set base_url to the final address."
    if status == 404:
        return "Check the model's name, and that base_url is the root of an SDA server, which mostly ends in /v1."
    if status in (413, 431):
        return "Send less at a time, or have the server's operator raise its limits."
    if status == 429:
        return "Send fewer requests at a time, or raise timeout and max_retries."
    if status >= 500:
        return "The fault is the server's: its log tells more."
    return "Check that the server is an SDA server of this version."
