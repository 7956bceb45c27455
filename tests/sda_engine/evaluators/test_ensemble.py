import asyncio
import contextvars
import threading

import pytest

from sda_engine import Steering
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import ContrastiveEvaluator, Evaluator, FixedScore, Score
from sda_engine.evaluators.ensemble import EnsembleEvaluator
from sda_engine.evaluators.protocol import EvaluatorUsage, evaluator_identity
from sda_engine.testing import ScriptedEvaluator, tiny_engine
from tests.sda_engine.evaluators.judges import RATED

ROUTES = ["sync", "async"]


class Member:
    """An evaluator that returns or raises what it is given, and has no name."""

    needs_response = True

    def __init__(self, outcome):
        self.outcome = outcome

    def evaluate(self, request):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def aevaluate(self, request):
        return self.evaluate(request)


class Gated(FixedScore):
    """Rates once all parties of a barrier rate."""

    def __init__(self, value, barrier):
        super().__init__(value)
        self.barrier = barrier

    def evaluate(self, request):
        self.barrier.wait(10)
        return super().evaluate(request)

    async def aevaluate(self, request):
        await asyncio.wait_for(self.barrier.wait(), 10)
        return super().evaluate(request)


async def rate(route, ensemble, request=RATED):
    if route == "sync":
        return await asyncio.to_thread(ensemble.evaluate, request)
    return await ensemble.aevaluate(request)


async def failure_of(route, ensemble):
    with pytest.raises(EvaluationError) as failure:
        await rate(route, ensemble)
    return failure.value


def scores(*values):
    return [FixedScore(value) for value in values]


# --- What comes of the members' scores


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("combine", "value"), [("mean", 60.0), ("median", 70.0), ("min", 20.0)])
async def test_the_scores_are_combined(route, combine, value):
    ensemble = EnsembleEvaluator(scores(90, 20, 70), combine=combine)
    score = await rate(route, ensemble)
    assert score.value == value
    assert score.samples == (90.0, 20.0, 70.0)
    assert [member.evaluator for member in score.members] == ["FixedScore(90)", "FixedScore(20)", "FixedScore(70)"]
    assert (score.failures, score.fallback, score.evaluator) == ((), None, ensemble.name)


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle():
    assert EnsembleEvaluator(scores(10, 20, 40, 100)).evaluate(RATED).value == 30.0


def test_the_reason_tells_in_one_line_who_said_what_and_how_far_they_disagree():
    score = EnsembleEvaluator([FixedScore(40), ScriptedEvaluator([ValueError("two\nlines")]), FixedScore(60)]).evaluate(
        RATED
    )
    assert score.reason == (
        "FixedScore(40) 40, ScriptedEvaluator([ValueError('two\\nlines')]) failed, FixedScore(60) 60; "
        "median 50, disagreement 10 points"
    )
    assert score.disagreement == 10.0


def test_a_single_score_disagrees_with_none():
    score = EnsembleEvaluator([FixedScore(40), Member(ValueError("no"))], max_disagreement=0).evaluate(RATED)
    assert score.reason == "FixedScore(40) 40, Member failed; median 40, no disagreement to tell"


def test_what_the_members_cost_is_added_up():
    cheap = EvaluatorUsage(calls=1, prompt_tokens=10, completion_tokens=2)
    dear = EvaluatorUsage(calls=2, prompt_tokens=20, completion_tokens=3, cost=0.5)
    members = [Member(Score(value=50.0, evaluator="a", usage=usage)) for usage in (cheap, None, dear)]
    usage = EnsembleEvaluator(members).evaluate(RATED).usage
    assert usage == EvaluatorUsage(calls=3, prompt_tokens=30, completion_tokens=5, cost=0.5)
    assert EnsembleEvaluator(scores(1, 2)).evaluate(RATED).usage is None


@pytest.mark.parametrize("route", ROUTES)
async def test_ensembles_can_be_nested(route):
    inner = EnsembleEvaluator([*scores(10, 30), Member(KeyError("x"))], combine="mean")
    score = await rate(route, EnsembleEvaluator([inner, FixedScore(80)], combine="min"))
    assert score.value == 20.0
    assert score.members[0].samples == (10.0, 30.0)
    assert score.members[0].failures == ("Member: KeyError: 'x'",)
    assert score.failures == ()


# --- Members run at the same time


def test_threads_rate_at_the_same_time():
    barrier = threading.Barrier(3)
    score = EnsembleEvaluator([Gated(value, barrier) for value in (1, 2, 3)], min_members=3).evaluate(RATED)
    assert score.samples == (1.0, 2.0, 3.0)


async def test_tasks_rate_at_the_same_time():
    barrier = asyncio.Barrier(3)
    score = await EnsembleEvaluator([Gated(value, barrier) for value in (1, 2, 3)], min_members=3).aevaluate(RATED)
    assert score.samples == (1.0, 2.0, 3.0)


def test_a_hundred_members_are_all_asked():
    members = scores(*range(1, 101))
    assert EnsembleEvaluator(members, min_members=100).evaluate(RATED).samples == tuple(map(float, range(1, 101)))


def test_threads_see_the_context_of_the_caller():
    trace = contextvars.ContextVar("trace", default=None)

    class Traced(FixedScore):
        def evaluate(self, request):
            return Score(value=self.value, evaluator=str(trace.get()))

    trace.set("parent")
    score = EnsembleEvaluator([Traced(1), Traced(2)]).evaluate(RATED)
    assert [member.evaluator for member in score.members] == ["parent", "parent"]


# --- Members that fail


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (EvaluationError("no verdict"), "Member: no verdict"),
        (ValueError("broken"), "Member: ValueError: broken"),
        (TimeoutError(), "Member: TimeoutError: "),
        (None, "Member: It returned None in place of a Score."),
        (70, "Member: It returned 70 in place of a Score."),
        (object(), "Member: It returned an object of type object in place of a Score."),
        (Score(value=None, evaluator="x", fallback="instruct_only"), "Member: It returned a Score without a value."),
    ],
)
async def test_a_member_that_fails_is_left_out_and_told_of(route, outcome, failure):
    score = await rate(route, EnsembleEvaluator([FixedScore(30), Member(outcome), FixedScore(50)], combine="mean"))
    assert (score.value, score.samples, score.failures) == (40.0, (30.0, 50.0), (failure,))


async def test_a_member_whose_async_method_is_none_is_left_out():
    class Sync(FixedScore):
        def aevaluate(self, request):
            return self.evaluate(request)

    score = await EnsembleEvaluator([Sync(1), FixedScore(50)]).aevaluate(RATED)
    assert score.samples == (50.0,)
    assert "await" in score.failures[0]


@pytest.mark.parametrize("route", ROUTES)
async def test_too_few_scores_are_an_error_that_names_every_failure(route):
    first, second = EvaluationError("no verdict"), ValueError("broken")
    error = await failure_of(route, EnsembleEvaluator([Member(first), FixedScore(50), Member(second)], min_members=2))
    assert str(error) == (
        "1 of 3 members of an EnsembleEvaluator gave a score, and min_members=2 needs 2. Failed: Member: no verdict; "
        "Member: ValueError: broken - Mend or leave out the members that failed, or lower min_members."
    )
    assert error.base_response == "It is four."
    assert isinstance(error.__cause__, ExceptionGroup)
    assert error.__cause__.exceptions == (first, second)


@pytest.mark.parametrize("route", ROUTES)
async def test_exactly_min_members_are_enough(route):
    assert (await rate(route, EnsembleEvaluator([Member(None), *scores(40, 60)], min_members=2))).value == 50.0


@pytest.mark.parametrize("route", ROUTES)
async def test_more_disagreement_than_is_allowed_is_an_error(route):
    error = await failure_of(route, EnsembleEvaluator(scores(40, 60), max_disagreement=9.9))
    assert "by more than max_disagreement=9.9 points: FixedScore(40) 40, FixedScore(60) 60; median 50" in str(error)
    assert error.base_response == "It is four."
    assert (await rate(route, EnsembleEvaluator(scores(40, 60), max_disagreement=10))).value == 50.0


class Stop(BaseException):
    """No Exception, such as a KeyboardInterrupt."""


class Waiting:
    """Rates once released, and notes what became of it."""

    needs_response = True

    def __init__(self):
        self.began = threading.Event()
        self.released = threading.Event()
        self.ended = threading.Event()
        self.cancelled = False

    def evaluate(self, request):
        self.began.set()
        self.released.wait(10)
        self.ended.set()
        return Score(value=50.0, evaluator="Waiting")

    async def aevaluate(self, request):
        self.began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def test_what_is_no_exception_passes_through_at_once_and_leaves_the_other_threads_to_end():
    waiting = Waiting()
    with pytest.raises(Stop):
        EnsembleEvaluator([waiting, Member(Stop())]).evaluate(RATED)
    assert not waiting.ended.is_set()  # nobody waited for it
    waiting.released.set()
    assert waiting.ended.wait(10)


async def test_what_is_no_exception_passes_through_and_cancels_the_other_tasks():
    waiting = Waiting()
    with pytest.raises(Stop):
        await EnsembleEvaluator([waiting, Member(Stop())]).aevaluate(RATED)
    assert waiting.cancelled


async def test_a_cancelled_rating_cancels_every_member():
    members = [Waiting(), Waiting()]
    rating = asyncio.create_task(EnsembleEvaluator(members).aevaluate(RATED))
    while not all(member.began.is_set() for member in members):
        await asyncio.sleep(0)
    rating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rating
    assert all(member.cancelled for member in members)


# --- What it is to the engine


def test_it_needs_what_any_member_needs():
    assert isinstance(EnsembleEvaluator(scores(1, 2)), Evaluator)
    assert not EnsembleEvaluator(scores(1, 2)).needs_response
    assert not EnsembleEvaluator([FixedScore(1), ScriptedEvaluator([1])]).needs_logprobs
    judged = EnsembleEvaluator([FixedScore(1), ScriptedEvaluator([1])])
    assert (judged.needs_response, judged.needs_logprobs) == (True, False)
    contrasted = EnsembleEvaluator([FixedScore(1), EnsembleEvaluator([FixedScore(2), ContrastiveEvaluator()])])
    assert (contrasted.needs_response, contrasted.needs_logprobs) == (True, True)


@pytest.mark.parametrize("route", ROUTES)
async def test_an_engine_steers_by_an_ensemble_and_records_its_members(route):
    steering = Steering(evaluator=EnsembleEvaluator([ContrastiveEvaluator(), FixedScore(50), Member(ValueError("no"))]))
    with tiny_engine() as engine:
        chat, alignment = RATED.messages, "honesty"
        if route == "sync":
            done = engine.generate(chat, alignment, steering=steering)
        else:
            done = await engine.agenerate(chat, alignment, steering=steering)
    assert done.base_response is not None
    assert [member.evaluator for member in done.score.members] == [
        "ContrastiveEvaluator(sharpness=4)",
        "FixedScore(50)",
    ]
    assert done.score.failures == ("Member: ValueError: no",)
    assert done.amplification == steering.amplification_for(done.score.value)


def test_an_engine_decodes_no_base_response_where_no_member_needs_one():
    with tiny_engine() as engine:
        done = engine.generate(
            RATED.messages, "honesty", steering=Steering(evaluator=EnsembleEvaluator(scores(40, 60)))
        )
    assert done.base_response is None
    assert done.score.value == 50.0


def test_the_fallback_applies_where_the_members_disagree():
    evaluator = EnsembleEvaluator(scores(1, 100), max_disagreement=5)
    with tiny_engine() as engine:
        steering = Steering(evaluator=evaluator, on_evaluator_error="fixed")
        done = engine.generate(RATED.messages, "honesty", steering=steering)
    assert done.score.fallback == "fixed"


def test_the_name_tells_everything_that_changes_a_score():
    ensemble = EnsembleEvaluator(scores(1, 2))
    assert repr(ensemble) == ensemble.name
    assert ensemble.name == "EnsembleEvaluator([FixedScore(1), FixedScore(2)], combine='median', min_members=1)"
    others = [
        EnsembleEvaluator(scores(2, 1)),
        EnsembleEvaluator(scores(1, 2), combine="min"),
        EnsembleEvaluator(scores(1, 2), min_members=2),
        EnsembleEvaluator(scores(1, 2), max_disagreement=2),
        EnsembleEvaluator(scores(1, 2, 3)),
    ]
    assert len({evaluator.name for evaluator in [ensemble, *others]}) == 6
    nameless = Member(None)
    assert evaluator_identity(nameless) in EnsembleEvaluator([FixedScore(1), nameless]).name


# --- Arguments


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "0 evaluators: give a list of at least two"),
        ([FixedScore(1)], "1 evaluators: give a list of at least two"),
        (FixedScore(1), "at least two"),
        ("ab", "cannot be 'a': it must be an evaluator"),
        ([FixedScore(1), FixedScore], "cannot be an object of type type: it must be an evaluator"),
        ([FixedScore(1), 50], "cannot be 50: it must be an evaluator"),
    ],
)
def test_what_is_no_list_of_two_evaluators_is_refused(members, message):
    with pytest.raises(ConfigError, match=message):
        EnsembleEvaluator(members)


@pytest.mark.parametrize(
    ("argument", "value", "legal"),
    [
        ("combine", "max", "one of mean, median, min"),
        ("combine", ["mean"], "one of mean, median, min"),
        ("min_members", 0, "a whole number from 1 to 2"),
        ("min_members", 3, "a whole number from 1 to 2"),
        ("min_members", True, "a whole number from 1 to 2"),
        ("min_members", 1.0, "a whole number from 1 to 2"),
        ("max_disagreement", -1, "a number of points of at least 0, or None"),
        ("max_disagreement", float("nan"), "a number of points of at least 0, or None"),
        ("max_disagreement", float("inf"), "a number of points of at least 0, or None"),
        ("max_disagreement", "5", "a number of points of at least 0, or None"),
    ],
)
def test_an_argument_out_of_range_is_refused(argument, value, legal):
    with pytest.raises(ConfigError) as failure:
        EnsembleEvaluator(scores(1, 2), **{argument: value})
    assert str(failure.value) == f"EnsembleEvaluator.{argument} cannot be {value!r}: it must be {legal}" + (
        ", the members given." if argument == "min_members" else "."
    )
