import math

import pytest
import torch

from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import ContrastiveEvaluator, EvaluationRequest, Evaluator


def request(base: list[float], instructed: list[float], dtype: torch.dtype = torch.float32) -> EvaluationRequest:
    messages = [{"role": "user", "content": "Hi"}]
    logprobs = (torch.tensor(base, dtype=dtype), torch.tensor(instructed, dtype=dtype))
    return EvaluationRequest(messages, "text", PRESETS["honesty"], *logprobs)


def test_an_instruction_that_changes_nothing_scores_50() -> None:
    assert ContrastiveEvaluator().evaluate(request([-1.0, -2.0], [-1.0, -2.0])).value == 50.0


@pytest.mark.parametrize(
    ("base", "instructed", "sharpness", "score"),
    [
        ([-1.0, -2.0], [-0.5, -1.5], 4.0, 88.07970779778823),  # G = 0.5: 100 / (1 + e^-2)
        ([-0.5, -1.5], [-1.0, -2.0], 4.0, 11.920292202211755),  # G = -0.5: 100 / (1 + e^2)
        ([-3.0, -1.0], [-1.0, -2.0], 2.0, 73.10585786300049),  # G = (2 - 1) / 2: 100 / (1 + e^-1)
        ([-2.0], [-1.0], math.log(3), 75.0),  # G = 1: 100 / (1 + 1/3)
        (
            [-3.0, -3.0, -3.0, -3.0],
            [-2.0, -2.0, -4.0, -2.0],
            2 * math.log(9),
            90.0,
        ),  # G = 0.5: 100 / (1 + 1/9)
    ],
)
def test_the_score_is_the_logistic_of_the_mean_log_ratio(
    base: list[float], instructed: list[float], sharpness: float, score: float
) -> None:
    rating = ContrastiveEvaluator(sharpness).evaluate(request(base, instructed))
    assert rating.value == pytest.approx(score, rel=1e-12)


def test_the_score_rises_with_the_mean_log_ratio_and_stays_in_range() -> None:
    gains = [-1e4, -100.0, -5.0, -1.0, -0.1, 0.0, 0.1, 1.0, 5.0, 100.0, 1e4]
    ratings = [ContrastiveEvaluator().evaluate(request([-1e5], [-1e5 + gain])) for gain in gains]
    scores = [rating.value for rating in ratings if rating.value is not None]
    assert scores == sorted(scores)
    assert len(set(scores[2:9])) == 7  # strictly, wherever the logistic is not saturated
    assert all(0.0 < score <= 100.0 for score in scores)


def test_the_length_of_a_response_does_not_count() -> None:
    short = ContrastiveEvaluator().evaluate(request([-2.0], [-1.8]))
    long = ContrastiveEvaluator().evaluate(request([-2.0] * 500, [-1.8] * 500))
    assert long.value == pytest.approx(short.value, rel=1e-9)


def test_half_precision_does_not_blur_the_mean_of_a_long_response() -> None:
    rating = ContrastiveEvaluator(1.0).evaluate(request([-1.0] * 4096, [-0.5] * 4096, torch.bfloat16))
    assert rating.value == pytest.approx(100 / (1 + math.exp(-0.5)), rel=1e-9)


def test_an_empty_response_is_refused() -> None:
    with pytest.raises(EvaluationError, match="empty"):
        ContrastiveEvaluator().evaluate(request([], []))


@pytest.mark.parametrize(
    ("base", "instructed"),
    [
        ([math.nan], [-1.0]),
        ([-1.0, -1.0], [-1.0, math.nan]),
        ([-math.inf], [-1.0]),
        ([-1.0], [-math.inf]),
        ([-math.inf], [-math.inf]),
    ],
)
def test_log_probabilities_that_are_not_finite_are_refused(base: list[float], instructed: list[float]) -> None:
    with pytest.raises(EvaluationError, match="no score"):
        ContrastiveEvaluator().evaluate(request(base, instructed))


def test_missing_log_probabilities_are_refused() -> None:
    with pytest.raises(EvaluationError, match="base_logprobs and instructed_logprobs"):
        ContrastiveEvaluator().evaluate(EvaluationRequest([], "text", PRESETS["honesty"]))


def test_log_probabilities_of_different_lengths_are_refused() -> None:
    with pytest.raises(EvaluationError, match="same base response"):
        ContrastiveEvaluator().evaluate(request([-1.0], [-1.0, -2.0]))


@pytest.mark.parametrize("sharpness", [0, -1.0, math.nan, math.inf, "4"])
def test_a_sharpness_that_is_no_positive_number_is_refused(sharpness: object) -> None:
    with pytest.raises(ConfigError, match="must be a number above 0"):
        ContrastiveEvaluator(sharpness)  # type: ignore[arg-type]


async def test_the_async_score_is_the_same_and_names_its_evaluator() -> None:
    evaluator = ContrastiveEvaluator(sharpness=2.5)
    rating = await evaluator.aevaluate(request([-1.0], [-0.5]))
    assert rating == evaluator.evaluate(request([-1.0], [-0.5]))
    assert rating.evaluator == "ContrastiveEvaluator(sharpness=2.5)"
    assert rating.reason == "mean log-probability ratio +0.5000 nats per token over 1 tokens"
    assert isinstance(evaluator, Evaluator)
    assert evaluator.needs_response
    assert evaluator.needs_logprobs
