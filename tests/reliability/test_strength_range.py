"""Requirement 4: no score, no curve and no failure gives a strength that is out of range."""

import math
import sys

import pytest

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.results.completion import Completion
from sda_engine.steering.amplification import AMPLIFICATION_CURVES, amplification_factor
from sda_engine.testing import ScriptedEvaluator
from tests.conftest import user

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind")
SHORT = Sampling(max_new_tokens=8, temperature=0)

GRID = [
    math.ulp(0.0),
    sys.float_info.min,
    1e-300,
    1e-9,
    *(step / 100 for step in range(1, 10_000)),
    math.nextafter(100.0, 0.0),
    100.0,
]


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
def test_every_curve_gives_a_finite_amplification_from_0_to_1_over_the_whole_grid(curve: str) -> None:
    factors = [amplification_factor(score, curve) for score in GRID]
    assert all(math.isfinite(factor) and 0.0 <= factor <= 1.0 for factor in factors)
    assert factors == sorted(factors, reverse=True)  # a better score is never steered more


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
@pytest.mark.parametrize("score", [math.ulp(0.0), 1e-9, 1.0, 50.0, math.nextafter(100.0, 0.0), 100.0])
def test_the_strength_of_an_answer_is_in_range_for_every_curve(
    engine: SteeringEngine, curve: str, score: float
) -> None:
    steering = Steering(evaluator=ScriptedEvaluator([score]), amplification_curve=curve)
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert done.amplification is not None
    assert 0.0 <= done.amplification <= 1.0
    assert done.trace.strength == 2.0 * done.amplification


@pytest.mark.parametrize("returned", [math.nan, math.inf, 7, -0.001, 1.001])
def test_a_curve_of_the_user_s_that_leaves_the_range_is_an_error_and_no_strength(
    engine: SteeringEngine, returned: float
) -> None:
    steering = Steering(evaluator=ScriptedEvaluator([50]), amplification_curve=lambda _: returned)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)


@pytest.mark.parametrize("score", [0.0, -1.0, 100.5, math.nan, math.inf, -math.inf])
def test_a_score_out_of_range_is_a_failure_of_the_evaluator_and_no_strength(
    engine: SteeringEngine, score: float
) -> None:
    def answer(**settings: object) -> Completion:
        steering = Steering(evaluator=ScriptedEvaluator([score]), **settings)  # type: ignore[arg-type]
        return engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)

    with pytest.raises(EvaluationError):
        answer()
    assert answer(on_evaluator_error="instruct_only").trace.strength == 0.0
