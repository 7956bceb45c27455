"""When a call to a judge is worth another try, how long to wait for it, and when to give up."""

import asyncio

import httpx
import openai
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from sda_engine.errors import EvaluationError
from sda_engine.servers import retry_after

_BACKOFF = wait_exponential(multiplier=0.5, max=8.0) + wait_random(0.0, 0.5)  # seconds


class FieldRefusedError(Exception):
    """The server refused an optional field of the request; the call is to be made again without it."""


_PASSING = (openai.APIConnectionError, httpx.TransportError, ConnectionError, EvaluationError, FieldRefusedError)


def make_retrying(max_retries: int, seconds: float, failures: list[BaseException]) -> AsyncRetrying:
    """The retry policy of one sample: bounded calls, exponential backoff with jitter, Retry-After honoured.

    A wait that would pass the deadline is not begun: the failure before it is raised instead. After a
    FieldRefusedError there is no wait and always another call, since each field can be refused only once.

    Args:
        max_retries: calls after the first one, at least 0.
        seconds: from the first call to the deadline.
        failures: receives each failure that is followed by another call.
    """

    def note(state: RetryCallState) -> None:
        if (failure := _failure(state)) is not None:
            failures.append(failure)

    bounds = stop_after_attempt(max_retries + 1) | stop_before_delay(seconds)
    return AsyncRetrying(
        sleep=asyncio.sleep,
        retry=retry_if_exception(_is_worth_a_retry),
        wait=_wait,
        stop=lambda state: not isinstance(_failure(state), FieldRefusedError) and bounds(state),
        before_sleep=note,
        reraise=True,
    )


def _is_worth_a_retry(error: BaseException) -> bool:
    status = getattr(error, "status_code", None)  # where the SDKs of OpenAI, Anthropic and others have it
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    return isinstance(error, _PASSING)


def _wait(state: RetryCallState) -> float:
    failure = _failure(state)
    if isinstance(failure, FieldRefusedError):
        return 0.0
    return max(retry_after(failure) or 0.0, _BACKOFF(state))


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
