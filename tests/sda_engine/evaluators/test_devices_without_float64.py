"""Evaluators on a device that knows no float64, as Apple's GPUs: values move to the CPU before they become float64."""

import pytest
import torch

from sda_engine.alignment import PRESETS
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    EvaluationRequest,
    RewardModelEvaluator,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)
from sda_engine.testing import tiny_reward_model
from tests.conftest import user


class Narrow(torch.Tensor):
    """A tensor on such a device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


def narrow(*values):
    return torch.tensor(values).as_subclass(Narrow)


class Ratings:
    """A model whose distribution over continuations is on such a device."""

    def continuation_logprobs(self, messages, continuations):
        return torch.full((len(continuations),), 1 / len(continuations)).log().as_subclass(Narrow)

    async def acontinuation_logprobs(self, messages, continuations):
        return self.continuation_logprobs(messages, continuations)


@pytest.mark.parametrize(
    ("evaluator", "score"),
    [
        (ContrastiveEvaluator(), 50.0),
        (UncertaintyEvaluator(), None),
        (UncertaintyEvaluator(aggregate="tail"), None),
        (SelfRatingEvaluator(), 50.0),
    ],
)
def test_log_probabilities_on_it_are_rated(evaluator, score):
    logprobs = narrow(-1.0, -2.0, -3.0)
    request = EvaluationRequest(
        user("2 + 2?"),
        "Four.",
        PRESETS["honesty"],
        base_logprobs=logprobs,
        instructed_logprobs=logprobs,
        model=Ratings(),
    )
    value = evaluator.evaluate(request).value
    assert 0 < value <= 100
    assert score is None or value == pytest.approx(score)


def test_a_reward_model_on_it_rates():
    model, tokenizer = tiny_reward_model()
    expected = RewardModelEvaluator((model, tokenizer)).evaluate(
        EvaluationRequest(user("2 + 2?"), "Four.", PRESETS["honesty"])
    )

    def move(module, args, output):
        output.logits = output.logits.as_subclass(Narrow)
        return output

    model.register_forward_hook(move)
    rated = RewardModelEvaluator((model, tokenizer)).evaluate(
        EvaluationRequest(user("2 + 2?"), "Four.", PRESETS["honesty"])
    )
    assert rated.value == expected.value
