"""Requests are laid over the server's defaults key by key, and come before them."""

import pytest

from sda_engine import Alignment, Sampling, Steering
from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError
from sda_engine.evaluators import FixedScore
from sda_engine.wire.read_request import read_chat_settings
from tests.sda_engine.wire.asked import JUDGE, body, parsed, server

HONESTY, EMPATHY = PRESETS["honesty"], PRESETS["empathy"]
AVOIDING = Alignment(instruction="Use plain words.", avoid="Jargon.")


def read(defaults, **fields):
    return read_chat_settings(parsed(body(**fields)), defaults)


def test_a_request_that_says_nothing_gets_the_defaults():
    given = {
        "alignment": AVOIDING,
        "steering": Steering(gain=3.0, policy="budget", budget=5.0, evaluator=JUDGE),
        "sampling": Sampling(temperature=0.0, max_new_tokens=9, stop=("\n",), seed=3, top_k=5),
        "timeout": 30.0,
        "template_kwargs": {"enable_thinking": False},
        "adapter": "polite",
    }
    got = read(server(**given))
    assert {name: getattr(got, name) for name in given} == given


def test_what_it_says_comes_first_key_by_key():
    defaults = server(
        alignment=HONESTY,
        steering=Steering(gain=3.0, plausibility=0.1),
        sampling=Sampling(temperature=0.0, max_new_tokens=9, stop=("\n",), top_k=5),
        timeout=30.0,
        template_kwargs={"enable_thinking": False, "language": "en"},
    )
    sda = {"alignment": "empathy", "gain": 1.0, "template_kwargs": {"language": "fr"}, "timeout": 2, "min_p": 0.1}
    got = read(defaults, temperature=1.0, max_completion_tokens=20, stop=[], sda=sda)
    assert got.alignment == EMPATHY
    assert got.steering == Steering(gain=1.0, plausibility=0.1)
    assert got.sampling == Sampling(temperature=1.0, max_new_tokens=20, top_k=5, min_p=0.1)
    assert got.timeout == 2.0
    assert got.template_kwargs == {"enable_thinking": False, "language": "fr"}


def test_null_says_nothing_but_where_none_means_something_in_python():
    defaults = server(
        alignment=AVOIDING,
        steering=Steering(gain=3.0, amplification=0.4, avoid_strength=0.2),
        sampling=Sampling(temperature=0.0, max_new_tokens=9, stop=("\n",), seed=3, top_p=0.5, top_k=5),
        timeout=30.0,
        template_kwargs={"enable_thinking": False},
        adapter="polite",
    )
    nothing = dict.fromkeys(["temperature", "max_tokens", "max_completion_tokens", "stop", "seed", "top_p", "tools"])
    said = dict.fromkeys(["gain", "template_kwargs", "policy", "evaluator", "constraint", "trace", "strict"])
    assert read(defaults, **nothing, sda=said) == read(defaults)
    assert read(defaults, sda=None) == read(defaults)
    meant = dict.fromkeys(["amplification", "avoid_strength", "top_k", "timeout", "adapter"])
    got = read(defaults, sda=meant)
    assert (got.steering.amplification, got.steering.avoid_strength) == (None, None)
    assert (got.sampling.top_k, got.timeout, got.adapter) == (None, None, None)
    assert read(defaults, sda={"alignment": None}).alignment is None


def test_a_default_that_the_requests_alignment_leaves_idle_is_left_out():
    defaults = server(alignment=AVOIDING, steering=Steering(gain=3.0, avoid_strength=0.2, plausibility=0.1))
    assert read(defaults, sda={"alignment": "honesty"}).steering.given() == {"gain": 3.0, "plausibility": 0.1}
    assert read(defaults, sda={"alignment": None}).steering.given() == {"plausibility": 0.1}
    asked = read(defaults, sda={"alignment": None, "gain": 1.0})  # what was asked for stays, to be warned of
    assert asked.steering.given() == {"gain": 1.0, "plausibility": 0.1}


@pytest.mark.parametrize(
    ("default", "said", "left"),
    [
        (Steering(amplification=0.4), {"evaluator": "judge"}, Steering(evaluator=JUDGE)),
        (Steering(evaluator=JUDGE, accept_score=90), {"amplification": 0.4}, Steering(amplification=0.4)),
        (Steering(evaluator=JUDGE, accept_score=90), {"evaluator": "fixed:30.0"}, Steering(evaluator=FixedScore(30))),
        (Steering(budget=3.0), {"policy": "revise"}, Steering(policy="revise")),
        (
            Steering(temperature_schedule="critical_tokens", critical_categories=["numbers"], min_temperature=0.1),
            {"temperature_schedule": "constant"},
            Steering(temperature_schedule="constant"),
        ),
        (
            Steering(policy="revise", chooser=JUDGE, amplification=0.4, on_evaluator_error="fixed"),
            {"chooser": None},
            Steering(policy="revise", chooser=None, amplification=0.4),
        ),
    ],
)
def test_a_default_that_the_request_leaves_no_effect_goes_without_an_error(default, said, left):
    got = read(server(alignment=HONESTY, steering=default), sda=said).steering
    assert got == left
    assert got.given().keys() == left.given().keys()


def test_what_the_defaults_leave_no_effect_is_an_error_that_says_what_to_set():
    with pytest.raises(ConfigError, match="Set policy='budget'") as refused:
        read(server(alignment=HONESTY, steering=Steering(policy="paper")), sda={"budget": 3.0})
    assert refused.value.field == "sda.budget"


def test_two_fields_that_exclude_each_other_are_an_error_of_the_request():
    with pytest.raises(ConfigError, match="is fixed, so nothing is rated") as refused:
        read(server(), sda={"amplification": 0.5, "evaluator": "judge"})
    assert refused.value.field == "sda.evaluator"


def test_an_evaluator_that_the_server_does_not_know_is_an_error_of_its_field():
    for name in ("evaluator", "chooser"):
        with pytest.raises(ConfigError, match="this server knows") as refused:
            read(server(), sda={"policy": "revise", name: "openai:gpt"})
        assert refused.value.field == f"sda.{name}"
