from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import openai
import pytest

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.retries import FieldRefusedError, make_retrying
from sda_engine.servers import retry_after


def status_error(status: int, **headers: str) -> openai.APIStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=names, request=httpx2.Request("POST", "http://judge/v1"))
    return openai.APIStatusError(f"Error code: {status}", response=response, body=None)


class Calls:
    """A function that raises the given failures in turn, and then returns."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited for, none of which pass."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)

    monkeypatch.setattr("sda_engine.evaluators.retries.asyncio.sleep", sleep)
    return seconds


async def test_waits_double_from_half_a_second_to_eight_with_jitter(waits: list[float]) -> None:
    await make_retrying(7, 1e3, [])(Calls(*[status_error(500) for _ in range(7)]))
    assert len(waits) == 7
    for wait, floor in zip(waits, [0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert floor <= wait <= floor + 0.5
    assert any(wait not in (0.5, 1, 2, 4, 8) for wait in waits)


async def test_a_longer_retry_after_replaces_the_backoff(waits: list[float]) -> None:
    await make_retrying(1, 1e3, [])(Calls(status_error(429, retry_after="7")))
    assert waits == [7.0]


async def test_a_shorter_retry_after_does_not_cut_the_backoff(waits: list[float]) -> None:
    await make_retrying(1, 1e3, [])(Calls(status_error(429, retry_after="0")))
    assert waits[0] >= 0.5


async def test_a_wait_past_the_deadline_is_not_begun(waits: list[float]) -> None:
    calls = Calls(status_error(429, retry_after="120"))
    with pytest.raises(openai.APIStatusError):
        await make_retrying(5, 30.0, [])(calls)
    assert (calls.made, waits) == (1, [])


async def test_a_refused_field_is_followed_by_a_call_at_once_even_where_no_retries_are_left(
    waits: list[float],
) -> None:
    calls = Calls(FieldRefusedError("response_format"))
    assert await make_retrying(0, 30.0, [])(calls) == "done"
    assert (calls.made, waits) == (2, [0.0])


async def test_a_refused_field_counts_as_one_of_the_calls(waits: list[float]) -> None:
    calls = Calls(FieldRefusedError("response_format"), *[EvaluationError("unusable")] * 9)
    with pytest.raises(EvaluationError):
        await make_retrying(3, 1e3, [])(calls)
    assert calls.made == 4


@pytest.mark.parametrize("error", [KeyError("a bug"), status_error(409), status_error(307), status_error(451)])
async def test_other_failures_are_raised_at_once(error: Exception, waits: list[float]) -> None:
    calls = Calls(error)
    with pytest.raises(type(error)):
        await make_retrying(5, 30.0, [])(calls)
    assert calls.made == 1


async def test_failures_that_another_call_follows_are_noted(waits: list[float]) -> None:
    failures: list[BaseException] = []
    first, second = status_error(500), EvaluationError("unusable")
    await make_retrying(5, 1e3, failures)(Calls(first, second))
    assert failures == [first, second]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after": "-3"}, 0.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "1e999"}, float("inf")),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "?", "retry_after": "9"}, 9.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(status_error(429, **headers)) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = retry_after(status_error(503, retry_after=date))
    assert seconds is not None
    assert 30 < seconds <= 60


def test_other_errors_ask_for_no_wait() -> None:
    assert retry_after(EvaluationError("unusable")) is None
    assert retry_after(None) is None
