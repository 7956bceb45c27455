import asyncio
import copy
import logging
import pickle
import threading

import pytest

from sda_engine.errors import EvaluationError
from sda_engine.evaluators import EvaluationRequest, OpenAIEvaluator
from sda_engine.evaluators.breaker import FAILURES_TO_OPEN, SECONDS_BETWEEN_PROBES, CircuitBreaker
from tests.sda_engine.evaluators.judges import RATED, Judge, completion, fault

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_retries")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(EvaluationError, match="broken"), breaker.guard():
            raise EvaluationError("broken")


def assert_refused(breaker: CircuitBreaker) -> str:
    with pytest.raises(EvaluationError, match="left alone") as refusal, breaker.guard():
        pytest.fail("it was let through")
    return str(refusal.value)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("The judge", clock)


def test_the_fifth_failure_in_a_row_opens_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    assert (breaker.state, breaker.failures, breaker.seconds_to_probe) == ("closed", 4, 0.0)
    fail(breaker)
    assert (breaker.state, breaker.failures, breaker.seconds_to_probe) == ("open", 5, 30.0)
    assert "has failed 5 times in a row" in assert_refused(breaker)


def test_a_success_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    with breaker.guard() as probing:
        assert not probing
    fail(breaker, 4)
    assert breaker.state == "closed"


def test_while_it_is_open_one_probe_in_thirty_seconds_goes_through(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    probes = 0
    for _ in range(1200):
        clock.now += 0.25
        try:
            with breaker.guard() as probing:
                probes += probing
                raise EvaluationError("broken")
        except EvaluationError:
            pass
    assert probes == 10  # 300 seconds


def test_a_probe_that_succeeds_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    clock.now += SECONDS_BETWEEN_PROBES
    with breaker.guard() as probing:
        assert probing
        assert_refused(breaker)  # another request meanwhile
    assert (breaker.state, breaker.failures) == ("closed", 0)


def test_a_call_that_is_cancelled_tells_nothing_and_uses_up_its_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    with pytest.raises(asyncio.CancelledError), breaker.guard():
        raise asyncio.CancelledError
    assert breaker.failures == 4
    fail(breaker)
    clock.now += SECONDS_BETWEEN_PROBES
    with pytest.raises(asyncio.CancelledError), breaker.guard():
        raise asyncio.CancelledError
    assert_refused(breaker)
    assert breaker.seconds_to_probe == SECONDS_BETWEEN_PROBES


def test_of_many_threads_one_gets_the_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    clock.now += SECONDS_BETWEEN_PROBES
    start, probes, refused = threading.Barrier(8), [], []

    def call() -> None:
        start.wait()
        try:
            with breaker.guard() as probing:
                probes.append(probing)
                raise EvaluationError("broken")
        except EvaluationError as error:
            refused.append("left alone" in str(error))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert probes == [True]
    assert sorted(refused) == [False] + [True] * 7


def test_opening_and_closing_are_logged_once_each(
    breaker: CircuitBreaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fail(breaker, FAILURES_TO_OPEN)
        clock.now += SECONDS_BETWEEN_PROBES
        fail(breaker)
        clock.now += SECONDS_BETWEEN_PROBES
        with breaker.guard():
            pass
    assert [record.getMessage() for record in caplog.records] == [
        "The judge has failed 5 times in a row and is left alone for now.",
        "The judge rates again.",
    ]


def test_copies_share_it_and_a_pickle_holds_a_fresh_one() -> None:
    breaker = CircuitBreaker("The judge")
    fail(breaker, FAILURES_TO_OPEN)
    assert copy.copy(breaker) is breaker
    assert copy.deepcopy(breaker) is breaker
    assert repr(breaker) == "CircuitBreaker(open, failures=5)"
    assert pickle.loads(pickle.dumps(breaker)).state == "closed"  # noqa: S301


# A real server that fails


def rate(evaluator: OpenAIEvaluator, request: EvaluationRequest = RATED) -> str:
    """What the failure says."""
    with pytest.raises(EvaluationError) as failure:
        evaluator.evaluate(request)
    assert failure.value.base_response == request.response
    return str(failure.value)


def test_a_judge_that_fails_five_times_is_called_no_more(judge: Judge) -> None:
    judge.script = [fault(500)]
    evaluator = judge.evaluator(max_retries=1)
    for _ in range(5):
        assert "answered 500 after 2 calls" in rate(evaluator)
    assert judge.calls == 10
    assert evaluator.breaker.state == "open"
    for _ in range(20):
        assert "left alone" in rate(evaluator)
    assert judge.calls == 10


def test_a_probe_is_a_single_call_and_its_success_lets_all_through_again(judge: Judge, clock: Clock) -> None:
    judge.script = [fault(500)]
    evaluator = judge.evaluator(max_retries=3)
    evaluator.breaker = CircuitBreaker("The judge", clock)
    for _ in range(5):
        rate(evaluator)
    assert judge.calls == 20
    clock.now += SECONDS_BETWEEN_PROBES
    assert "answered 500 after 1 call:" in rate(evaluator)
    assert "left alone" in rate(evaluator)
    assert judge.calls == 21
    clock.now += SECONDS_BETWEEN_PROBES
    judge.script = [completion()]
    assert evaluator.evaluate(RATED).value == 85
    assert evaluator.evaluate(RATED).value == 85
    assert (judge.calls, evaluator.breaker.state) == (23, "closed")
