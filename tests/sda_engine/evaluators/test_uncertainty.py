import math

import pytest
import torch

from sda_engine import Sampling, Steering
from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator
from sda_engine.evaluators.uncertainty import UncertaintyEvaluator
from sda_engine.testing import tiny_engine
from tests.conftest import user
from tests.floats import LOGPROB

TENTH = [math.log(1 / 2)] * 18 + [math.log(1 / 8), math.log(1 / 32)]  # the least likely two of twenty: mean log 1/16


def request(*logprobs: float, dtype: torch.dtype = torch.float64) -> EvaluationRequest:
    return EvaluationRequest(user("Hi"), "text", PRESETS["honesty"], torch.tensor(logprobs, dtype=dtype))


@pytest.mark.parametrize(
    ("logprobs", "scale", "score"),
    [
        ([math.log(1 / 4)], 1.0, 25.0),
        ([math.log(1 / 2), math.log(1 / 8)], 1.0, 25.0),  # the geometric mean of 1/2 and 1/8
        ([math.log(1 / 4)], 2.0, 50.0),  # its square root
        ([math.log(1 / 4)], 0.5, 6.25),  # its square
        ([0.0, 0.0], 1.0, 100.0),
        ([-1.0], 1.0, 100 / math.e),
    ],
)
def test_the_score_is_the_geometric_mean_of_the_probabilities_to_the_power_of_one_over_scale(logprobs, scale, score):
    assert UncertaintyEvaluator(scale).evaluate(request(*logprobs)).value == pytest.approx(score, rel=1e-12)


def test_the_tail_is_the_least_likely_tenth_wherever_it_stands():
    evaluator = UncertaintyEvaluator(aggregate="tail")
    for logprobs in (TENTH, TENTH[::-1], [*TENTH[19:], *TENTH[:19]]):
        assert evaluator.evaluate(request(*logprobs)).value == pytest.approx(100 / 16, rel=1e-12)


@pytest.mark.parametrize(("tokens", "counted"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_tail_is_rounded_up_to_whole_tokens(tokens, counted):
    logprobs = [-float(place) for place in range(1, tokens + 1)]
    reason = UncertaintyEvaluator(aggregate="tail").evaluate(request(*logprobs)).reason
    assert reason.endswith(f"over the least likely {counted} of {tokens} tokens")


@pytest.mark.parametrize("aggregate", ["mean", "tail"])
def test_the_length_of_a_response_does_not_count(aggregate):
    evaluator = UncertaintyEvaluator(aggregate=aggregate)
    short, long = evaluator.evaluate(request(*TENTH)), evaluator.evaluate(request(*TENTH * 50))
    assert long.value == pytest.approx(short.value, rel=1e-9)


@pytest.mark.parametrize("aggregate", ["mean", "tail"])
def test_the_score_rises_with_the_log_probabilities_and_stays_in_range(aggregate):
    levels = [-1e30, -1e4, -20.0, -3.0, -1.0, -0.1, 0.0, 1e-7]  # the last one: rounding of a certain token
    scores = [UncertaintyEvaluator(aggregate=aggregate).evaluate(request(level)).value for level in levels]
    assert scores == sorted(scores)
    assert len(set(scores)) == 6
    assert scores[0] > 0.0
    assert scores[-1] == 100.0


def test_half_precision_does_not_blur_the_mean_of_a_long_response():
    rating = UncertaintyEvaluator().evaluate(request(*[-0.5] * 4096, *[-1.0] * 8192, dtype=torch.bfloat16))
    assert rating.value == pytest.approx(100 * math.exp(-5 / 6), rel=1e-9)


def test_missing_log_probabilities_are_refused_with_where_they_come_from():
    with pytest.raises(EvaluationError, match=r"needs base_logprobs.*The engine fills them in"):
        UncertaintyEvaluator().evaluate(EvaluationRequest(user("Hi"), "text", PRESETS["honesty"]))


def test_an_empty_response_is_refused():
    with pytest.raises(EvaluationError, match=r"empty.*at least one token"):
        UncertaintyEvaluator().evaluate(request())


@pytest.mark.parametrize("aggregate", ["mean", "tail"])
@pytest.mark.parametrize("odd", [math.nan, -math.inf, math.inf])
def test_log_probabilities_that_are_not_finite_are_refused_with_a_remedy(aggregate, odd):
    logprobs = [odd] if odd == math.inf else [*TENTH, odd, *TENTH]
    with pytest.raises(EvaluationError, match=r"no score.*float32"):
        UncertaintyEvaluator(aggregate=aggregate).evaluate(request(*logprobs))


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, "1", True, None])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(ConfigError, match=r"scale cannot be .* must be a number above 0"):
        UncertaintyEvaluator(scale)


@pytest.mark.parametrize("aggregate", ["min", None, ["mean"]])
def test_an_unknown_aggregate_is_refused(aggregate):
    with pytest.raises(ConfigError, match="must be 'mean' or 'tail'"):
        UncertaintyEvaluator(aggregate=aggregate)


async def test_the_async_score_is_the_same_and_names_its_evaluator():
    evaluator = UncertaintyEvaluator(2.5)
    rating = await evaluator.aevaluate(request(-1.0, -2.0))
    assert rating == evaluator.evaluate(request(-1.0, -2.0))
    assert rating.evaluator == "UncertaintyEvaluator(scale=2.5, aggregate='mean')"
    assert rating.reason == "mean log-probability -1.5000 nats over 2 of 2 tokens"
    assert isinstance(evaluator, Evaluator)
    assert evaluator.needs_response
    assert evaluator.needs_logprobs


def test_names_tell_apart_what_scores_differently():
    evaluators = [
        UncertaintyEvaluator(),
        UncertaintyEvaluator(2),
        UncertaintyEvaluator(1.0000001),
        UncertaintyEvaluator(aggregate="tail"),
    ]
    assert len({evaluator.name for evaluator in evaluators}) == 4
    assert UncertaintyEvaluator(1).name == UncertaintyEvaluator(1.0).name


class Recorder(UncertaintyEvaluator):
    """Keeps what it was asked."""

    def evaluate(self, request):
        self.request = request
        return super().evaluate(request)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_engine_gives_the_log_probabilities_at_temperature_1_and_without_an_instruction(temperature):
    recorder = Recorder()
    sampling = Sampling(max_new_tokens=12, temperature=temperature, seed=3, logprobs=0)
    with tiny_engine() as engine:
        steering = Steering(evaluator=recorder)
        completion = engine.generate(user("Hi"), "honesty", steering=steering, sampling=sampling)
        again = engine.rate(user("Hi"), completion.base_response, "honesty", UncertaintyEvaluator())
        likely = engine.continuation_logprobs(user("Hi"), [completion.base_response])
    logprobs = recorder.request.base_logprobs
    assert completion.score == UncertaintyEvaluator().evaluate(recorder.request).replace(evaluator=recorder.name)
    assert completion.score.value == pytest.approx(100 * math.exp(float(logprobs.double().mean())), rel=1e-9)
    # The text can be tokenised in other ways than it was sampled, so `rate` has a sum of its own
    tokens = int(again.reason.split(" of ")[1].split()[0])
    assert again.value == pytest.approx(100 * math.exp(float(likely[0]) / tokens), rel=LOGPROB)
