"""Errors on the wire: which status and code each has, and which error a client raises for them.

Of what is wrong in a request, the reply tells all. Of what fails in the server, it tells what failed and no more: the
texts of such errors may hold addresses, files and other users' matters, and stand in the server's log.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sda_engine.errors import (
    CapacityError,
    ConfigError,
    ConstraintError,
    ContextLengthError,
    EngineClosedError,
    EvaluationError,
    IncompleteOutputError,
    InvalidOutputError,
    MessageError,
    ModelLoadError,
    NumericalError,
    QueueFullError,
    RequestTimeoutError,
    SDAError,
)
from sda_engine.wire.replies import ErrorObject, ErrorReply

_INVALID, _RATE, _SERVER, _TIMEOUT = "invalid_request_error", "rate_limit_error", "server_error", "timeout_error"


@dataclass(frozen=True)
class ErrorKind:
    """How one class of errors goes over the wire.

    Attributes:
        error: the class.
        status: of HTTP.
        type: the class of errors, in OpenAI's terms.
        code: what names it.
        again: whether the same request may succeed later.
        text: what the reply says in place of the error's own text; None where that is about the request alone.
        param: the field that is wrong where the error names none.
    """

    error: type[SDAError]
    status: int
    type: str
    code: str
    again: bool = False
    text: str | None = None
    param: str | None = None


_BUSY = "The server has taken on as many requests as it may. Try again later, or send fewer at a time."
_TOO_LARGE = "The request needs more memory than the server may use. Ask for fewer new tokens, or shorten the messages."
_TOO_LONG = "The request did not finish within its timeout. Allow more seconds, or ask for fewer tokens."
_CLOSED = "The server stopped before the answer was whole. Try again."
_UNRATED = (
    "The evaluator gave no usable score, so the strength of steering is not known. Try again, send sda.amplification, "
    "or set sda.on_evaluator_error to 'fixed' or 'instruct_only'."
)
_NO_NUMBERS = "The model gave no usable distribution for this request."
_FAILED = "The server failed to answer. Its log tells more under the id of this request."

KINDS = (
    ErrorKind(ConfigError, 400, _INVALID, "invalid_value"),
    ErrorKind(MessageError, 400, _INVALID, "invalid_messages", param="messages"),
    ErrorKind(ConstraintError, 400, _INVALID, "invalid_schema", param="response_format"),
    ErrorKind(ContextLengthError, 400, _INVALID, "context_length_exceeded", param="messages"),
    ErrorKind(CapacityError, 400, _INVALID, "too_large", text=_TOO_LARGE),
    ErrorKind(ModelLoadError, 404, _INVALID, "model_not_found", param="model"),
    ErrorKind(InvalidOutputError, 422, _INVALID, "invalid_output"),
    ErrorKind(IncompleteOutputError, 422, _INVALID, "incomplete_output"),
    ErrorKind(QueueFullError, 429, _RATE, "queue_full", again=True, text=_BUSY),
    ErrorKind(RequestTimeoutError, 408, _TIMEOUT, "timeout", text=_TOO_LONG),
    ErrorKind(NumericalError, 500, _SERVER, "no_distribution", text=_NO_NUMBERS),
    ErrorKind(EvaluationError, 502, _SERVER, "evaluation_failed", text=_UNRATED),
    ErrorKind(EngineClosedError, 503, _SERVER, "shutting_down", again=True, text=_CLOSED),
    ErrorKind(SDAError, 500, _SERVER, "server_error", text=_FAILED),
)
"""Each class of errors, children before their parents."""

_BY_CODE: Mapping[str, ErrorKind] = {kind.code: kind for kind in KINDS}
_CARRIED = (
    "base_response",
    "partial",
    "text",
    "prompt_tokens",
    "context_window",
)  # attributes that are the request's own


def kind_of(error: BaseException) -> ErrorKind:
    """How an error goes over the wire; one that is none of ours as a failure of the server."""
    return next((kind for kind in KINDS if isinstance(error, kind.error)), KINDS[-1])


def write_error(error: BaseException) -> ErrorReply:
    """The reply that tells a client of an error."""
    kind = kind_of(error)
    ours = error if isinstance(error, SDAError) else SDAError()  # what others hold is the server's matter
    carried = {name: value for name in _CARRIED if (value := getattr(ours, name, None)) is not None}
    return ErrorReply(
        error=ErrorObject(
            message=str(error) if kind.text is None else kind.text,
            type=kind.type,
            param=ours.field or kind.param,
            code=kind.code,
            sda=carried or None,
        )
    )


def read_error(told: ErrorObject) -> SDAError | None:
    """The error that a reply tells of; None where its code is none of ours."""
    kind = _BY_CODE.get(told.code or "")
    if kind is None:
        return None
    carried = told.sda or {}
    error = _made(kind.error, told.message, carried)
    error.field = told.param
    return error


def may_succeed_later(told: ErrorObject) -> bool | None:
    """Whether the request that an error was told of may succeed a little later; None where its code is none of ours."""
    kind = _BY_CODE.get(told.code or "")
    return None if kind is None else kind.again


def _made(error: type[SDAError], message: str, carried: Mapping[str, object]) -> SDAError:
    if error is ContextLengthError:
        tokens, window = carried.get("prompt_tokens"), carried.get("context_window")
        if isinstance(tokens, int) and isinstance(window, int):
            return ContextLengthError(tokens, window)
        return MessageError(message)
    text = {name: str(value) for name, value in carried.items()}
    if error is EvaluationError:
        return EvaluationError(message, base_response=text.get("base_response"))
    if error is InvalidOutputError:
        return InvalidOutputError(message, text=text.get("text", ""))
    if error is IncompleteOutputError:
        return IncompleteOutputError(message, partial=text.get("partial", ""))
    if error is EngineClosedError:
        return EngineClosedError(message, partial=text.get("partial", ""))
    return error(message)
