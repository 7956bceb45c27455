import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.errors import ConfigError
from sda_engine.steering.amplification import AMPLIFICATION_CURVES, amplification_factor, sigmoid_amplification
from tests.oracles import amplification64

scores = st.floats(min_value=0, max_value=100, exclude_min=True, allow_subnormal=True)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(100, 0.0), (80, 0.12435), (50, 0.46212), (20, 0.96403), (10, 0.99975), (1, 1.0)],
)
def test_sigmoid_has_the_values_of_the_paper(score, expected):
    assert sigmoid_amplification(score) == pytest.approx(expected, abs=1e-5)


@given(st.floats(min_value=0.2, max_value=100))
def test_sigmoid_agrees_with_the_formula_as_the_paper_writes_it(score):
    assert sigmoid_amplification(score) == pytest.approx(amplification64(score), abs=1e-12)


@given(scores, scores)
def test_a_better_score_never_gets_more_amplification(one, other):
    low, high = sorted((one, other))
    assert sigmoid_amplification(low) >= sigmoid_amplification(high)


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
@given(score=scores)
def test_every_curve_gives_a_factor_from_0_to_1_for_every_score(curve, score):
    assert 0.0 <= amplification_factor(score, curve) <= 1.0


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ("exponential", math.exp(-0.3)),
        ("damped_exponential", math.exp(-1.3)),
        ("reciprocal", 100 / 30),
        ("linear", 0.7),
        ("steep_linear", 0.4),
        ("cosine", math.cos(0.15 * math.pi)),
    ],
)
def test_the_other_curves_follow_their_published_formulas(curve, expected):
    assert AMPLIFICATION_CURVES[curve](30) == pytest.approx(expected)


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
@pytest.mark.parametrize("score", [0, -1, 100.001, math.nan, math.inf, True, "80", None])
def test_a_score_out_of_range_is_refused_by_every_curve(curve, score):
    with pytest.raises(ConfigError, match="above 0 and at most 100"):
        amplification_factor(score, curve)


def test_an_unknown_curve_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'sigmoyd'.*sigmoid"):
        amplification_factor(50, "sigmoyd")


def test_a_callable_curve_is_used_and_its_range_is_checked():
    assert amplification_factor(40, lambda score: score / 100) == 0.4
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            amplification_factor(40, lambda _, wrong=wrong: wrong)
