"""Requirements 1 and 2: rate limits are waited out, and a rating ends at its deadline whatever the server does."""

import asyncio
import itertools
import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug import Response

from sda_engine.errors import EvaluationError
from sda_engine.evaluators import OpenAIEvaluator
from tests.reliability.raw_server import HEAD, RawServer, drip, hang
from tests.sda_engine.evaluators.judges import RATED, Judge, completion, fault

pytestmark = pytest.mark.usefixtures("clean_environment")

# 1. Rate limits


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of 0.4 s or more that anybody asks the event loop for, none of which take place."""
    seconds: list[float] = []
    sleep = asyncio.sleep

    async def skip(delay: float, *result: object) -> object:
        if delay < 0.4:
            return await sleep(delay, *result)
        seconds.append(delay)
        return await sleep(0, *result)

    monkeypatch.setattr(asyncio, "sleep", skip)
    return seconds


def test_three_rate_limits_and_a_verdict_are_four_calls_one_score_and_growing_waits(
    judge: Judge, waits: list[float]
) -> None:
    judge.script = [fault(429), fault(429), fault(429), completion()]
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert judge.calls == 4
    assert [math.floor(wait / floor) for wait, floor in zip(waits, (0.5, 1.0, 2.0), strict=True)] == [1, 1, 1]


def test_callers_that_were_refused_together_come_back_at_different_times(judge: Judge, waits: list[float]) -> None:
    judge.script = [fault(429)] * 16 + [completion()]
    judge.evaluator(samples=16).evaluate(RATED)
    assert len(waits) == len(set(waits)) == 16
    assert min(waits) >= 0.5
    assert 0.1 < max(waits) - min(waits) <= 0.5


def test_a_retry_after_is_waited_for_as_long_as_the_deadline_allows(judge: Judge, quick_retries: None) -> None:
    times: list[float] = []

    def limited() -> Response:
        times.append(time.monotonic())
        return fault(429, **{"Retry-After": "1"})

    judge.script = [limited]
    with pytest.raises(EvaluationError, match="asks to wait 1 s"):
        judge.evaluator(timeout=2.5).evaluate(RATED)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert judge.calls == 3  # at 0, 1 and 2 s; a third wait would end past the deadline
    assert min(gaps) >= 0.99


# 2. The deadline

STALLS: dict[str, Callable[[socket.socket], None]] = {
    "hang": hang,
    "drip of the head": drip(HEAD + "\r\n"),
    "drip of the body": lambda connection: (connection.sendall(f"{HEAD}\r\n".encode()), drip(" " * 200)(connection))[1],
    "hang inside the body": lambda connection: (connection.sendall(f"{HEAD}\r\n{{".encode()), hang(connection))[1],
    "Retry-After 120": lambda connection: connection.sendall(
        b"HTTP/1.1 429 No\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"
    ),
    "drip of an error": lambda connection: (
        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 200\r\n\r\n"),
        drip(" " * 200)(connection),
    )[1],
}


def seconds_until_failure(rate: Callable[[], object]) -> float:
    start = time.monotonic()
    with pytest.raises(EvaluationError) as failure:
        rate()
    assert failure.value.base_response == RATED.response
    return time.monotonic() - start


@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS)
def test_a_deadline_of_two_seconds_holds_within_one_in_every_form(
    raw_server: Callable[..., RawServer], stall: Callable[[socket.socket], None]
) -> None:
    evaluator = OpenAIEvaluator("judge", base_url=raw_server(stall).url, timeout=2.0)

    async def inside_a_running_loop() -> object:
        return evaluator.evaluate(RATED)

    forms = (
        lambda: evaluator.evaluate(RATED),
        lambda: asyncio.run(evaluator.aevaluate(RATED)),
        lambda: asyncio.run(inside_a_running_loop()),
    )
    with ThreadPoolExecutor(len(forms)) as threads:
        seconds = list(threads.map(seconds_until_failure, forms))
    assert max(seconds) < 3.0
