import math

import pytest
import torch

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError, ContextLengthError, EvaluationError
from sda_engine.evaluators import EvaluationRequest, Evaluator, SelfRatingEvaluator
from sda_engine.testing import tiny_engine
from tests.conftest import user
from tests.floats import SCORE


class Distribution:
    """A model whose distribution over the continuations is known, and that keeps what it was asked."""

    def __init__(self, **probabilities: float) -> None:
        self.probabilities = probabilities
        self.asked: list[tuple[object, tuple[str, ...]]] = []

    def continuation_logprobs(self, messages, continuations):
        self.asked.append((messages, tuple(continuations)))
        return torch.tensor([self.probabilities.get(text, 0.0) for text in continuations]).log()

    async def acontinuation_logprobs(self, messages, continuations):
        return self.continuation_logprobs(messages, continuations)


def request(model=None, response="It is four.") -> EvaluationRequest:
    return EvaluationRequest(user("2 + 2?"), response, PRESETS["honesty"], model=model)


def digits(*probabilities: float) -> Distribution:
    return Distribution(**{str(digit): share for digit, share in enumerate(probabilities, start=1)})


@pytest.mark.parametrize(
    ("probabilities", "score"),
    [
        ((0, 0, 0, 0, 0, 0, 0, 0, 1), 100),
        ((0, 0, 0, 0, 1), 50),
        ((0.5, 0, 0, 0, 0, 0, 0, 0, 0.5), 50),
        ((0, 0, 0.01), 25),  # the rest of the distribution is on other words
        ((0.1, 0, 0, 0, 0, 0, 0, 0, 0.3), 75),
        ((1,), 1e-4),  # a score is above 0
    ],
)
def test_the_score_is_the_mean_of_the_distribution_over_the_digits(probabilities, score):
    assert SelfRatingEvaluator().evaluate(request(digits(*probabilities))).value == pytest.approx(score, rel=1e-6)


def test_yes_and_no_are_read_with_both_spellings():
    model = Distribution(yes=0.2, Yes=0.1, no=0.05, No=0.05)
    score = SelfRatingEvaluator(scale="yes_no").evaluate(request(model))
    assert score.value == pytest.approx(75)
    assert "yes, Yes, no, No, which hold 40.0% of it" in score.reason
    assert model.asked[0][1] == ("yes", "Yes", "no", "No")


async def test_the_async_score_is_the_same():
    assert (await SelfRatingEvaluator().aevaluate(request(digits(0, 0, 1)))).value == 25


def test_the_prompt_holds_rubric_conversation_and_response_in_fences_and_is_always_the_same():
    model = digits(1)
    for _ in range(2):
        SelfRatingEvaluator().evaluate(request(model))
    (first, continuations), (second, _) = model.asked
    assert first == second, "the same text gets the same score"
    assert continuations == tuple("123456789")
    system, query = (message["content"] for message in first)
    assert [message["role"] for message in first] == ["system", "user"]
    assert PRESETS["honesty"].rating_rubric in system
    assert "from 1" in system
    assert "to 9" in system
    assert "JSON" not in system
    code = query.split()[1]
    assert f"=== {code} begin: the response to rate ===\nIt is four.\n=== {code} end ===" in query
    SelfRatingEvaluator().evaluate(request(model, response="It is five."))
    assert code not in model.asked[-1][0][1]["content"], "another text has another code"


def test_a_model_of_its_own_is_asked_in_place_of_the_one_that_answered():
    own, other = digits(0, 0, 0, 0, 1), digits(1)
    assert SelfRatingEvaluator(own).evaluate(request(other)).value == 50
    assert other.asked == []


@pytest.mark.parametrize("mass", [0.0, math.nan, math.inf])
def test_a_distribution_that_is_none_gives_no_score(mass):
    with pytest.raises(EvaluationError, match="no score"):
        SelfRatingEvaluator().evaluate(request(digits(mass)))


def test_without_a_model_it_says_where_one_comes_from():
    with pytest.raises(EvaluationError, match="no model to ask") as failure:
        SelfRatingEvaluator().evaluate(request())
    assert failure.value.base_response == "It is four."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"scale": "stars"}, "scale cannot be 'stars': it must be 'digits' or 'yes_no'"), ({"model": 7}, "cannot be 7")],
)
def test_an_argument_that_is_illegal_is_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        SelfRatingEvaluator(**arguments)


def test_the_name_tells_what_changes_a_score():
    assert SelfRatingEvaluator().name == "SelfRatingEvaluator(scale='digits')"
    assert SelfRatingEvaluator(scale="yes_no").name == "SelfRatingEvaluator(scale='yes_no')"
    with tiny_engine() as engine:
        assert repr(engine) in SelfRatingEvaluator(engine).name
    assert isinstance(SelfRatingEvaluator(), Evaluator)


# On a real engine


def test_the_engine_that_answers_rates(engine: SteeringEngine):
    steering = Steering(evaluator=SelfRatingEvaluator())
    sampling = Sampling(temperature=0, max_new_tokens=8)
    done = engine.generate(user("hello"), "honesty", steering=steering, sampling=sampling)
    expected = engine.rate(user("hello"), done.base_response, "honesty", SelfRatingEvaluator())
    assert done.score.value == pytest.approx(expected.value, abs=SCORE)
    assert 0 < done.score.value <= 100
    assert done.amplification == steering.amplification_for(done.score.value)


async def test_the_engine_that_answers_rates_in_an_event_loop_too(engine: SteeringEngine):
    steering = Steering(evaluator=SelfRatingEvaluator(scale="yes_no"))
    sampling = Sampling(temperature=0, max_new_tokens=8)
    done = await engine.agenerate(user("hello"), "honesty", steering=steering, sampling=sampling)
    expected = await engine.arate(user("hello"), done.base_response, "honesty", steering.evaluator)
    assert done.score.value == pytest.approx(expected.value, abs=SCORE)


def test_a_rating_prompt_beyond_the_context_window_is_an_error_with_the_base_response():
    with tiny_engine(context_window=256) as small:
        with pytest.raises(EvaluationError, match="context window") as failure:
            small.generate(
                user("hello"),
                "honesty",
                steering=Steering(evaluator=SelfRatingEvaluator()),
                sampling=Sampling(temperature=0, max_new_tokens=8),
            )
        assert isinstance(failure.value.__cause__, ContextLengthError)
        assert failure.value.base_response


@pytest.mark.slow
def test_the_real_model_understands_what_it_is_asked(smollm2_float32: SteeringEngine):
    messages = user("What is the capital of France?")
    score = smollm2_float32.rate(messages, "The capital of France is Paris.", "honesty", SelfRatingEvaluator())
    mass = float(score.reason.split("hold ")[1].split("%")[0])
    assert mass > 1, "nine tokens of 49,152 would hold 0.02% by chance"
