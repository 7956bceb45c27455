"""Settings that would do nothing: refused where two of them always cancel out, else warned of with the request."""

import warnings

import pytest

from sda_engine import Alignment, AlignmentWarning, NoEffectWarning, Sampling, Steering
from sda_engine.adapting import combine_settings
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator

RATED = ScriptedEvaluator([95])
ASKED = [{"role": "user", "content": "Hi"}]
WANTED = Alignment(instruction="Be kind.")
UNWANTED = Alignment(avoid="Rude text.")


@pytest.fixture(scope="module")
def engine():
    with ScriptedEngine("Hello.") as engine:
        yield engine


@pytest.mark.parametrize(
    ("together", "said"),
    [
        ({"evaluator": RATED, "amplification": 0.5}, "evaluator=an object .* amplification=0.5 is fixed"),
        ({"evaluator": FixedScore(50), "amplification": 0.0}, "amplification=0.0 is fixed, so nothing is rated"),
        ({"amplification": 0.5, "amplification_curve": "linear"}, "amplification_curve='linear' would change nothing"),
        ({"amplification": 0.5, "accept_score": 90}, "accept_score=90.0 would change nothing"),
        ({"amplification": 0.5, "on_evaluator_error": "fixed"}, "on_evaluator_error='fixed' would change nothing"),
        ({"evaluator": FixedScore(95), "accept_score": 90}, r"FixedScore\(95\) rates no base response"),
        ({"evaluator": FixedScore(95), "on_evaluator_error": "fixed"}, r"FixedScore\(95\) never fails"),
        ({"critical_divergence": 0.2}, "temperature_schedule='divergence' treats all tokens alike"),
        ({"temperature_schedule": "constant", "min_temperature": 0.1}, "leaves the temperature as it is"),
        ({"temperature_schedule": "constant", "temperature_sensitivity": 1.0}, "leaves the temperature as it is"),
    ],
)
def test_settings_that_always_cancel_out_are_refused(together, said):
    with pytest.raises(ConfigError, match=said):
        Steering(**together)


@pytest.mark.parametrize(
    "together",
    [
        {"evaluator": RATED, "amplification": None, "accept_score": 90, "on_evaluator_error": "fixed"},
        {"evaluator": FixedScore(30), "amplification_curve": "linear", "accept_score": None},
        {"amplification": 0.5, "gain": 3.0, "avoid_strength": 1.0},
        {"temperature_schedule": "critical_tokens", "critical_divergence": 0.2, "critical_categories": ()},
    ],
)
def test_settings_that_go_together_are_taken(together):
    assert Steering(**together)


@pytest.mark.parametrize(
    ("given", "alignment", "idle"),
    [
        ({"gain": 3.0}, None, "gain"),
        ({"amplification": 0.5}, None, "amplification"),
        ({"evaluator": RATED}, None, "evaluator"),
        ({"evaluator": RATED, "accept_score": 90}, None, "evaluator, accept_score"),
        ({"placement": "system"}, None, "placement"),
        ({"scope": "text"}, None, "scope"),
        ({"avoid_strength": 1.0}, None, "avoid_strength"),
        ({"temperature_sensitivity": 1.0}, None, "temperature_sensitivity"),
        ({"avoid_strength": 1.0}, WANTED, "avoid_strength"),
        ({"avoid_strength": 1.0, "gain": 3.0}, UNWANTED, "gain"),
        ({"accept_score": 90}, WANTED, "accept_score"),
        ({"on_evaluator_error": "fixed"}, WANTED, "on_evaluator_error"),
    ],
)
async def test_settings_that_change_nothing_in_a_request_are_warned_of_at_the_line_that_asks(
    engine, given, alignment, idle
):
    steering = Steering(**given)
    with pytest.warns(NoEffectWarning, match=rf"nothing in this answer: {idle} \(since") as caught:
        engine.generate(ASKED, alignment, steering=steering)
    with pytest.warns(NoEffectWarning, match=rf"nothing in this answer: {idle} \(since") as caught_in_loop:
        await engine.agenerate(ASKED, alignment, steering=steering)
    assert [warning.filename for warning in (*caught, *caught_in_loop)] == [__file__] * 2


@pytest.mark.parametrize(
    ("given", "alignment"),
    [
        ({}, None),
        ({"plausibility": 0.1, "guard": "report", "min_temperature": 0.1}, None),
        ({"gain": 3.0, "amplification": 0.5, "placement": "system"}, WANTED),
        ({"scope": "text"}, WANTED),
        ({"avoid_strength": 1.0}, UNWANTED),
        ({"gain": 3.0}, UNWANTED),
        ({"evaluator": RATED, "accept_score": 90, "on_evaluator_error": "fixed"}, WANTED),
    ],
)
def test_settings_that_change_something_are_not_warned_of(engine, given, alignment):
    assert engine.generate(ASKED, alignment, steering=Steering(**given), sampling=Sampling(temperature=0)).text


def test_replacing_one_of_two_that_exclude_each_other_takes_the_new_one():
    rated = Steering(gain=3.0, evaluator=RATED, accept_score=90, on_evaluator_error="fixed")
    assert rated.replace(amplification=0.5) == Steering(gain=3.0, amplification=0.5)
    assert rated.replace(evaluator=FixedScore(30)) == Steering(gain=3.0, evaluator=FixedScore(30))
    assert rated.replace(evaluator=ContrastiveEvaluator()).accept_score == 90
    assert Steering(amplification=0.5).replace(evaluator=RATED) == Steering(evaluator=RATED)
    with pytest.raises(ConfigError, match="is fixed"):
        rated.replace(amplification=0.5, evaluator=RATED)


# --- layers: a model's fields, blocks around a call, the call


def test_of_an_evaluator_and_an_amplification_the_later_counts_and_both_at_once_are_refused():
    rated = combine_settings({"amplification": 0.5}, {"evaluator": RATED}, owner="Test").steering
    assert rated == Steering(evaluator=RATED)
    assert combine_settings({"evaluator": RATED}, {"amplification": 0.5}, owner="Test").steering.amplification == 0.5
    for both in ({"evaluator": RATED}, {"steering": Steering(evaluator=RATED)}):
        with pytest.raises(ConfigError, match="is fixed"):
            combine_settings({**both, "amplification": 0.5}, owner="Test")


def test_what_a_later_alignment_leaves_no_effect_is_dropped_and_what_comes_with_it_is_kept():
    both_texts = Alignment(instruction="Be kind.", avoid="Rude text.")
    model = {"alignment": both_texts, "gain": 3.0, "steering": Steering(avoid_strength=1.0, plausibility=0.1)}
    assert combine_settings(model, {"alignment": None}, owner="Test").steering == Steering(plausibility=0.1)
    both = combine_settings(model, {"alignment": None, "gain": 5.0}, owner="Test").steering
    assert both == Steering(gain=5.0, plausibility=0.1)
    other = combine_settings(model, {"alignment": "honesty"}, owner="Test").steering
    assert other == Steering(gain=3.0, plausibility=0.1)
    back = combine_settings(model, {"alignment": None}, {"alignment": both_texts}, owner="Test").steering
    assert back == Steering(gain=3.0, avoid_strength=1.0, plausibility=0.1)
    never = combine_settings({"alignment": None, "gain": 3.0}, {"temperature": 0}, owner="Test").steering
    assert never.idle_for(None)


# --- alignments


@pytest.mark.parametrize("name", ["Honesty", "HONESTY", " honesty\n"])
def test_a_presets_name_counts_whatever_its_case(name):
    assert resolve_alignment(name) is resolve_alignment("honesty")


def test_an_alignment_warns_once_at_the_line_that_makes_it():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = Alignment(instruction="Never lie.")
        resolve_alignment(made)
        resolve_alignment("Never lie.")
        with ScriptedEngine("Hello.") as engine:
            engine.generate(ASKED, made)
            engine.generate(ASKED, "Never lie.")
    assert [(warning.category, warning.filename) for warning in caught] == [(AlignmentWarning, __file__)] * 3
    assert not find_warnings(lambda: Alignment(instruction="Never lie.", avoid="Lies."))


def find_warnings(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return caught
