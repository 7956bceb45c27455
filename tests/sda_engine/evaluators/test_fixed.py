import math

import pytest

from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError
from sda_engine.evaluators import EvaluationRequest, Evaluator, FixedScore

REQUEST = EvaluationRequest([{"role": "user", "content": "Hi"}], "", PRESETS["honesty"])


def test_every_request_gets_the_same_score_and_needs_no_response() -> None:
    evaluator = FixedScore(20)
    assert evaluator.evaluate(REQUEST).value == 20.0
    assert evaluator.evaluate(REQUEST).evaluator == "FixedScore(20)"
    assert evaluator.needs_response is False
    assert isinstance(evaluator, Evaluator)


def test_the_default_score_is_50() -> None:
    assert FixedScore().evaluate(REQUEST).value == 50.0


async def test_the_async_score_is_the_same() -> None:
    assert await FixedScore(7.5).aevaluate(REQUEST) == FixedScore(7.5).evaluate(REQUEST)


@pytest.mark.parametrize("value", [0, -1, 100.5, math.nan, math.inf, True, "50", None])
def test_a_score_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 100"):
        FixedScore(value)  # type: ignore[arg-type]


def test_equal_scores_make_equal_evaluators() -> None:
    assert FixedScore(50) == FixedScore(50.0)
    assert hash(FixedScore(50)) == hash(FixedScore(50.0))
    assert FixedScore(50) != FixedScore(51)
    assert FixedScore(50) != 50.0


def test_the_name_tells_scores_apart_that_are_close() -> None:
    assert FixedScore(50.0000001).name != FixedScore(50.0000002).name
