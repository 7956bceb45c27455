"""Where the time of a request goes, and what is tried again."""

import asyncio

import pytest

from sda_engine import Steering, SteeringEngine
from sda_engine.alignment import PRESETS
from sda_engine.config import NoEffectWarning
from sda_engine.errors import EvaluationError, QueueFullError, RequestTimeoutError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore, OpenAIEvaluator, Score, SelfRatingEvaluator
from sda_engine.evaluators.protocol import EvaluatorUsage, needs_model
from sda_engine.testing import ScriptedEvaluator
from sda_integrations.inspect.retries import JudgeFailedError, decide_retry, told_apart
from sda_integrations.inspect.stages import Stopwatch
from tests.sda_integrations.inspect.asking import api_of, ask

HONESTY = PRESETS["honesty"]


class Clock:
    """Time that passes only where a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowJudge(ScriptedEvaluator):
    """Takes three seconds of the clock, and tells that it made two calls."""

    def __init__(self, clock: Clock) -> None:
        super().__init__([80])
        self.clock = clock

    async def aevaluate(self, request):
        self.clock.now += 3.0
        return Score(value=80.0, evaluator="slow", usage=EvaluatorUsage(calls=2))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sda_integrations.inspect.stages.time.perf_counter", clock)
    return clock


async def run(engine: SteeringEngine, stopwatch: Stopwatch, steering: Steering, alignment=HONESTY):
    watched = stopwatch.watch(steering, alignment)
    return await engine.agenerate([{"role": "user", "content": "Hi"}], alignment, steering=watched)


async def test_the_stages_are_told_by_when_the_evaluator_was_asked(clock, scripted) -> None:
    engine, stopwatch = scripted("Yes."), Stopwatch()
    clock.now += 1.0  # where the base response is decoded, as far as this clock goes
    done = await run(engine, stopwatch, Steering(evaluator=SlowJudge(clock)))
    clock.now += 5.0
    stages = stopwatch.stages(done)
    assert (stages.base_response, stages.judge, stages.answer, stages.judge_calls) == (1.0, 3.0, 5.0, 2)


async def test_without_a_base_response_all_is_answer(clock, scripted) -> None:
    stopwatch = Stopwatch()
    done = await run(scripted("Yes."), stopwatch, Steering(evaluator=FixedScore(50)))
    clock.now += 2.0
    stages = stopwatch.stages(done)
    assert (stages.base_response, stages.judge, stages.answer, stages.judge_calls) == (0.0, 0.0, 2.0, 0)


async def test_a_base_response_that_nobody_rates_is_no_stage_of_its_own(clock, scripted) -> None:
    stopwatch = Stopwatch()
    done = await run(scripted("Yes."), stopwatch, Steering(policy="revise", amplification=0.5))
    assert stopwatch.stages(done).base_response is None


async def test_two_requests_at_once_do_not_mix(scripted) -> None:
    engine = scripted("Yes.")
    outputs = await asyncio.gather(
        ask(api_of(engine, alignment="honesty", evaluator="simulated:0")), ask(api_of(engine, alignment="honesty"))
    )
    assert [output.metadata["sda"]["judge_calls"] for output in outputs] == [1, 0]


async def test_the_evaluators_own_needs_name_and_errors_come_through(scripted) -> None:
    judge = ScriptedEvaluator([EvaluationError("no verdict")], needs_logprobs=True)
    with pytest.raises(EvaluationError, match=r"ScriptedEvaluator\(.* gave no score: no verdict"):
        await run(scripted("Yes."), Stopwatch(), Steering(evaluator=judge))
    (request,) = judge.requests
    assert request.base_logprobs is not None
    for evaluator, asks in ((SelfRatingEvaluator(), True), (judge, False)):
        assert needs_model(Stopwatch().watch(Steering(evaluator=evaluator), HONESTY).evaluator) is asks


async def test_one_who_rates_and_chooses_rates_the_base_response_once(scripted) -> None:
    judge = ScriptedEvaluator([80])
    stopwatch = Stopwatch()
    done = await run(scripted("Yes."), stopwatch, Steering(policy="revise", evaluator=judge, chooser=judge))
    assert len(done.attempts) > 0
    assert [request.response for request in judge.requests].count("Yes.") == 1 + len(done.attempts)
    assert stopwatch.stages(done).judge_calls == 1 + len(done.attempts)


def test_a_contrastive_chooser_keeps_its_class_and_its_identity() -> None:
    contrastive = ContrastiveEvaluator()
    both = Steering(policy="revise", evaluator=contrastive, chooser=contrastive)
    assert Stopwatch().watch(both, HONESTY) is both
    other = Stopwatch().watch(Steering(policy="revise", evaluator=FixedScore(40), chooser=contrastive), HONESTY)
    assert other.chooser is contrastive
    assert other.evaluator.name == "FixedScore(40)"


async def test_the_engine_still_warns_of_what_changes_nothing(scripted) -> None:
    with pytest.warns(NoEffectWarning, match="accept_score"):
        await run(scripted("Yes."), Stopwatch(), Steering(accept_score=90))


class RefusalError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


def failed(cause: BaseException) -> EvaluationError:
    error = EvaluationError("judge gave no score")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "retry", "kind"),
    [
        (QueueFullError("full"), True, "rate_limit"),
        (failed(RefusalError(429)), True, "rate_limit"),
        (failed(RefusalError(503)), True, "transient"),
        (failed(RefusalError(401)), False, "transient"),
        (failed(JudgeFailedError("garbage")), True, "transient"),
        (failed(EvaluationError("cut off")), False, "transient"),
        (RequestTimeoutError("late"), False, "transient"),
        (ValueError("a bug"), False, "transient"),
    ],
)
def test_what_may_pass_is_tried_again(error, retry, kind) -> None:
    decision = decide_retry(error)
    assert (decision.retry, decision.kind) == (retry, kind)


@pytest.mark.parametrize(
    ("evaluator", "kind"),
    [(OpenAIEvaluator("m", base_url="http://localhost:9"), JudgeFailedError), (FixedScore(50), EvaluationError)],
)
def test_only_a_judge_behind_a_server_counts_as_one(evaluator, kind) -> None:
    with pytest.raises(EvaluationError, match="no") as raised, told_apart(evaluator):
        raise EvaluationError("no", base_response="b")
    assert type(raised.value) is kind
    assert raised.value.base_response == "b"
