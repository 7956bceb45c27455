"""What a temperature schedule or an amplification curve of the user's may return."""

import math

import numpy as np
import pytest
import torch

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, NumericalError, SDAError
from sda_engine.steering import amplification_factor, constant_schedule, steered_step
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 1.0, 1.0]])
SHORT = Sampling(max_new_tokens=3, seed=1)


def step(schedule, logits=LOGITS):
    return steered_step(logits, logits.flip(-1), strength=1.0, temperature=0.6, schedule=schedule)


@pytest.mark.parametrize(
    "returned",
    [
        0.5,
        np.float32(0.5),
        torch.tensor(0.5),
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([0.5, 0.5], dtype=torch.float16),
    ],
    ids=repr,
)
def test_a_number_or_one_for_each_row_is_a_temperature(returned):
    given = step(lambda _: returned)
    assert given.temperature.tolist() == [0.5, 0.5]
    assert given.temperature.dtype == torch.float32
    expected = steered_step(LOGITS, LOGITS.flip(-1), strength=1.0, temperature=0.5, schedule=constant_schedule)
    assert torch.equal(given.logprobs, expected.logprobs)


def test_whole_numbers_are_temperatures_and_0_is_greedy():
    assert step(lambda _: torch.tensor([0, 1])).temperature.tolist() == [0.0, 1.0]
    assert step(lambda _: 0).logprobs.exp().amax(-1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (-0.1, "-0.1"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (1e39, r"1e\+39"),  # more than float32 holds
        (10**400, "1000"),
        (None, "None"),
        (True, "True"),
        ("0.5", "'0.5'"),
        ([0.5, 0.5], r"\[0.5, 0.5\]"),
        (0.5 + 1j, "an object of type complex"),
        (torch.tensor([0.5, -1.0]), r"\[0.5, -1.0\]"),
        (torch.tensor([0.5, math.nan]), r"\[0.5, nan\]"),
        (torch.tensor([0.5, math.inf]), r"\[0.5, inf\]"),
        (torch.tensor([0.5, 0.5, 0.5]), r"\[0.5, 0.5, 0.5\]"),
        (torch.tensor([[0.5], [0.5]]), r"\[\[0.5\], \[0.5\]\]"),
        (torch.tensor([1j, 1j]), r"\[1j, 1j\]"),
    ],
    ids=repr,
)
def test_anything_else_is_refused_with_the_schedule_and_what_it_returned(returned, told):
    def my_schedule(signals):
        return returned

    with pytest.raises(ConfigError, match=rf"'my_schedule' returned {told}.*finite number of at least 0.*constant"):
        step(my_schedule)


def test_a_schedule_without_a_name_is_told_by_its_type():
    class Cold:
        def __call__(self, signals):
            return -1

        __hash__ = None

    with pytest.raises(ConfigError, match="'Cold' returned -1"):
        step(Cold())


def test_an_answer_names_the_schedule_and_the_next_one_comes(engine):
    with pytest.raises(ConfigError, match="'<lambda>' returned -1"):
        engine.generate(user("who?"), "be kind", steering=Steering(temperature_schedule=lambda _: -1), sampling=SHORT)
    fine = Steering(temperature_schedule=lambda signals: 0.25)
    assert engine.generate(user("who?"), "be kind", steering=fine, sampling=SHORT).trace.temperature == [0.25] * 3


def test_broken_weights_are_not_blamed_on_the_schedule():
    model = tiny_model()
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        with torch.no_grad():
            model.lm_head.weight.fill_(math.nan)
        steering = Steering(temperature_schedule=lambda signals: signals.divergence)
        with pytest.raises(NumericalError):
            engine.generate(user("who?"), "be kind", steering=steering, sampling=SHORT)


def test_an_error_in_a_schedule_is_the_cause_of_an_error_of_ours(engine):
    steering = Steering(temperature_schedule=lambda signals: signals.no_such_field)
    with pytest.raises(SDAError, match="no_such_field") as raised:
        engine.generate(user("who?"), "be kind", steering=steering, sampling=SHORT)
    assert isinstance(raised.value.__cause__, AttributeError)


@pytest.mark.parametrize("returned", [None, "0.5", True, 1j, [0.5], torch.tensor([0.5, 0.5]), math.nan, 10**400, -1])
def test_a_curve_that_returns_no_amplification_is_refused(returned):
    with pytest.raises(ConfigError, match=r"curve '<lambda>' returned .* a number from 0 to 1"):
        amplification_factor(50, lambda _: returned)


@pytest.mark.parametrize("returned", [0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])], ids=repr)
def test_a_curve_may_return_any_kind_of_number(returned):
    assert amplification_factor(50, lambda _: returned) == 0.5
