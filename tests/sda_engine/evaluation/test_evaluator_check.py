"""Evaluators rate pairs on a tiny engine."""

import asyncio

import pytest

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluation import NamedEvaluator, acheck_evaluators, check_evaluators
from sda_engine.evaluation.evaluator_check import arate_pairs
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore, Score
from sda_engine.testing import ScriptedEvaluator
from tests.floats import SCORE
from tests.sda_engine.evaluation.ratings import pair

PAIRS = [pair("is it so", True, response="yes"), pair("is it so", False, response="the quick brown fox")]


def values(rated):
    return [[rating.value for rating in ratings] for ratings in rated.ratings]


async def test_every_pair_is_rated_before_any_is_rated_again(engine):
    named = NamedEvaluator("scripted", ScriptedEvaluator([1, 2, 3, 4, 5, 6]))
    assert values(await arate_pairs(engine, PAIRS, named, repeats=3)) == [[1, 3, 5], [2, 4, 6]]


async def test_a_score_is_what_the_engine_rates(engine):
    evaluator = ContrastiveEvaluator()
    rated = await arate_pairs(engine, PAIRS, NamedEvaluator("contrastive", evaluator), repeats=1)
    expected = [engine.rate(one.messages, one.response, one.alignment, evaluator).value for one in PAIRS]
    assert values(rated) == [[pytest.approx(value, abs=SCORE)] for value in expected]
    assert expected[0] != expected[1]


def test_a_deterministic_evaluator_has_no_spread(engine):
    (figures,) = check_evaluators(engine, PAIRS, [NamedEvaluator("contrastive", ContrastiveEvaluator())]).evaluators
    assert (figures.calls, figures.spread.largest) == (6, pytest.approx(0, abs=SCORE))


def test_whatever_an_evaluator_raises_is_counted_and_stops_nothing(engine):
    script = [EvaluationError("no"), ZeroDivisionError("oh"), 40, EvaluationError("no")]
    evaluators = [NamedEvaluator("failing", ScriptedEvaluator(script)), NamedEvaluator("fixed", FixedScore(30))]
    failing, fixed = check_evaluators(engine, PAIRS, evaluators, repeats=2).evaluators
    assert (failing.rated, failing.failures, failing.mean) == (1, 3, 40)
    assert failing.commonest_error == "EvaluationError: no"
    assert (fixed.failures, fixed.mean) == (0, 30)


@pytest.mark.parametrize("returned", [None, 50.0, Score(value=None, evaluator="it", fallback="instruct_only")])
async def test_what_is_no_score_is_a_failure(engine, returned):
    class Wrong:
        needs_response = True

        async def aevaluate(self, request):
            return returned

    rated = await arate_pairs(engine, PAIRS[:1], NamedEvaluator("wrong", Wrong()), repeats=1)
    assert rated.ratings[0][0].value is None
    assert "in place of a Score" in rated.ratings[0][0].error


def test_an_empty_response_is_a_failure_of_evaluators_that_cannot_rate_it(engine):
    evaluators = [NamedEvaluator("contrastive", ContrastiveEvaluator())]
    (figures,) = check_evaluators(engine, [pair(response="")], evaluators, repeats=1).evaluators
    assert (figures.rated, figures.failures) == (0, 1)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_ratings_run_at_a_time_than_allowed(engine, concurrency):
    class Counting:
        needs_response = True
        running = most = 0

        async def aevaluate(self, request):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.001)
            self.running -= 1
            return Score(value=50, evaluator="counting")

    evaluator = Counting()
    rated = await arate_pairs(engine, PAIRS * 4, NamedEvaluator("counting", evaluator, concurrency), repeats=2)
    assert evaluator.most == concurrency
    assert values(rated) == [[50, 50]] * 8


def test_each_rating_is_told(engine):
    told = []
    evaluators = [NamedEvaluator("a", FixedScore()), NamedEvaluator("b", ScriptedEvaluator([EvaluationError("no")]))]
    check_evaluators(engine, PAIRS, evaluators, repeats=2, on_rating=lambda: told.append(1))
    assert len(told) == 8


async def test_cancelling_a_check_ends_it(engine):
    class Waiting:
        needs_response = True

        async def aevaluate(self, request):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await acheck_evaluators(engine, PAIRS, [NamedEvaluator("waiting", Waiting())])


@pytest.mark.parametrize(
    ("pairs", "evaluators", "repeats", "words"),
    [
        ([], [NamedEvaluator("a", FixedScore())], 1, "at least one pair"),
        (PAIRS, [], 1, "at least one pair"),
        (PAIRS, [NamedEvaluator("a", FixedScore()), NamedEvaluator("a", FixedScore(1))], 1, "'a' is named twice"),
        (PAIRS, [NamedEvaluator("a", FixedScore())], 0, "repeats cannot be 0"),
        (PAIRS, [NamedEvaluator("a", FixedScore())], True, "repeats cannot be True"),
    ],
)
def test_a_check_of_nothing_is_refused(engine, pairs, evaluators, repeats, words):
    with pytest.raises(ConfigError, match=words):
        check_evaluators(engine, pairs, evaluators, repeats=repeats)


def test_a_concurrency_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        NamedEvaluator("a", FixedScore(), 0)
