import importlib
import json
import math
import warnings

import pytest

import sda_engine
from sda_engine import PRESETS, Alignment, AlignmentWarning, Sampling, Steering
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ConfigError, SDAError
from sda_engine.evaluators import FixedScore
from sda_engine.testing import ScriptedEvaluator


def test_the_defaults_are_those_of_the_design():
    steering, sampling = Steering(), Sampling()
    assert (steering.gain, steering.amplification, steering.evaluator) == (2.0, None, FixedScore(50))
    assert (steering.temperature_sensitivity, steering.min_temperature) == (2 * math.log(2), 0.0)
    assert (steering.temperature_schedule, steering.plausibility, steering.placement) == (
        "divergence",
        0.0,
        "after_query",
    )
    assert (steering.amplification_curve, steering.avoid_strength) == ("sigmoid", None)
    assert (steering.policy, steering.scope) == ("auto", "answer")
    assert (steering.accept_score, steering.on_evaluator_error) == (None, "raise")
    assert (steering.critical_divergence, steering.critical_categories, steering.guard) == (0.05, (), "off")
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.6, 0.95, None, None)
    assert (sampling.max_new_tokens, sampling.stop, sampling.seed, sampling.logprobs) == (512, (), None, None)


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (Steering, "gain", -1),
        (Steering, "gain", math.nan),
        (Steering, "gain", math.inf),
        (Steering, "gain", "2"),
        (Steering, "amplification", 1.1),
        (Steering, "amplification", True),
        (Steering, "avoid_strength", -0.1),
        (Steering, "evaluator", "gpt"),
        (Steering, "amplification_curve", "sigmoyd"),
        (Steering, "temperature_schedule", 3),
        (Steering, "temperature_schedule", "cold"),
        (Steering, "temperature_sensitivity", 0),
        (Steering, "min_temperature", -1),
        (Steering, "critical_divergence", -0.1),
        (Steering, "critical_divergence", 0.7),
        (Steering, "critical_categories", "verbs"),
        (Steering, "critical_categories", 3),
        (Steering, "guard", "on"),
        (Steering, "plausibility", 1.5),
        (Steering, "placement", "before"),
        (Steering, "scope", "words"),
        (Steering, "accept_score", 0),
        (Steering, "on_evaluator_error", "ignore"),
        (Sampling, "temperature", -0.1),
        (Sampling, "temperature", math.nan),
        (Sampling, "top_p", 0),
        (Sampling, "top_p", 1.01),
        (Sampling, "top_k", 0),
        (Sampling, "min_p", 2),
        (Sampling, "max_new_tokens", 0),
        (Sampling, "stop", ["a", ""]),
        (Sampling, "stop", 7),
        (Sampling, "seed", -1),
        (Sampling, "logprobs", 101),
        (Alignment, "instruction", ""),
    ],
)
def test_a_bad_value_is_refused_with_value_range_and_default(settings, field, value):
    given = {"instruction": "x", field: value} if settings is Alignment else {field: value}
    with pytest.raises(ConfigError) as raised:
        settings(**given)
    message = str(raised.value)
    assert message.startswith(f"{settings.__name__}.{field} cannot be {value!r}: it must be ")
    assert "The default is" in message


def test_an_object_in_the_wrong_place_is_named_by_its_type_alone():
    class Keeper:
        def __repr__(self):
            return "sk-secret"

    for wrong in (Keeper(), Keeper):
        with pytest.raises(ConfigError, match=r"Steering\.evaluator cannot be an object of type") as raised:
            Steering(evaluator=wrong)
        assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "typo", "meant"),
    [
        (Steering, "gian", "gain"),
        (Sampling, "max_tokens", "max_new_tokens"),
        (Alignment, "instrction", "instruction"),
    ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(settings, typo, meant):
    with pytest.raises(ConfigError, match=f"has no field '{typo}'. Did you mean '{meant}'"):
        settings(**{typo: 1})


def test_settings_are_frozen_and_replace_validates_again():
    steering = Steering(gain=3)
    with pytest.raises(ValueError, match="frozen"):
        steering.gain = 1
    assert steering.replace(gain=1.0) == Steering(gain=1)
    assert steering.replace_given(gain=None, plausibility=0.1) == Steering(gain=3, plausibility=0.1)
    with pytest.raises(ConfigError):
        steering.replace(gain=-1.0)


def test_one_stop_string_or_a_list_of_them_is_taken():
    assert Sampling(stop="x").stop == ("x",)
    assert Sampling(stop=["x", "y"]).stop == ("x", "y")


def test_one_category_or_a_list_of_them_is_taken():
    careful = Steering(temperature_schedule="critical_tokens")
    assert careful.replace(critical_categories="numbers").critical_categories == ("numbers",)
    assert careful.replace(critical_categories=["numbers", "negations"]).critical_categories == ("numbers", "negations")


@pytest.mark.parametrize("schedule", ["divergence", "constant"])
def test_categories_need_a_schedule_that_tells_tokens_apart(schedule):
    with pytest.raises(ConfigError, match=f"temperature_schedule='{schedule}' treats all tokens alike. Set ") as raised:
        Steering(temperature_schedule=schedule, critical_categories=("numbers",))
    assert str(raised.value).startswith("Steering.critical_categories=('numbers',) would change nothing")
    assert Steering(temperature_schedule=lambda signals: signals.temperature, critical_categories=("numbers",))


def test_a_description_of_steering_is_json_and_tells_evaluators_and_callables_apart():
    def halve(score):
        return score / 200

    class Nameless:
        needs_response = False

        def evaluate(self, request):
            raise NotImplementedError

        async def aevaluate(self, request):
            raise NotImplementedError

    nameless = Nameless(), Nameless()
    described = [
        json.dumps(Steering(**given).describe())
        for given in (
            {},
            {"evaluator": FixedScore(60)},
            {"evaluator": ScriptedEvaluator([1])},
            {"amplification_curve": halve},
            {"amplification_curve": "linear"},
            {"amplification_curve": lambda score: score / 100},
            {"amplification_curve": lambda score: score / 300},
            {"temperature_schedule": "critical_tokens", "critical_categories": ["numbers"]},
            {"guard": "relax"},
            {"scope": "text"},
            {"evaluator": nameless[0]},
            {"evaluator": nameless[1]},
        )
    ]
    assert len(set(described)) == len(described)
    assert "halve" in described[3]


def test_the_presets_have_an_instruction_and_a_rubric_and_no_prohibition():
    names = ["helpfulness", "harmlessness", "honesty", "empathy", "summarization", "faithful_to_picture"]
    assert list(PRESETS) == names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in PRESETS:
            preset = resolve_alignment(name)
            assert preset.instruction
            assert preset.rubric
            assert preset.name == name


def test_a_text_is_the_users_own_instruction():
    assert resolve_alignment("Answer like a pirate.") == Alignment(instruction="Answer like a pirate.")
    assert resolve_alignment(None) is None


def test_a_near_miss_of_a_preset_warns():
    with pytest.warns(AlignmentWarning, match="Did you mean the preset 'honesty'"):
        resolve_alignment("Honest")


@pytest.mark.parametrize("instruction", ["Do not mention cats.", "You must never swear.", "Avoid jargon."])
def test_a_prohibition_warns_and_points_to_avoid(instruction):
    with pytest.warns(AlignmentWarning, match=r"Alignment\(avoid=...\)"):
        resolve_alignment(instruction)


@pytest.mark.parametrize("alignment", [3, ["honesty"], "", "   "])
def test_an_alignment_of_another_kind_is_refused(alignment):
    with pytest.raises(ConfigError):
        resolve_alignment(alignment)


def test_an_alignment_needs_a_direction():
    with pytest.raises(ConfigError, match="nothing to steer by"):
        Alignment(rubric="Rate it.")


def test_an_alignment_without_a_rubric_rates_its_own_texts():
    rubric = Alignment(instruction="be kind", avoid="cold words").rating_rubric
    assert "be kind" in rubric
    assert "cold words" in rubric


def test_every_error_of_the_engine_is_an_sda_error():
    module = importlib.import_module("sda_engine.errors")
    errors = [value for value in vars(module).values() if isinstance(value, type)]
    assert len(errors) > 5
    assert all(issubclass(error, SDAError) for error in errors)
    assert all(error.__name__ in module.__doc__ for error in errors)


def test_every_public_name_can_be_imported_from_where_it_lives():
    assert sorted(sda_engine._HOMES) == sorted(sda_engine.__all__)
    for name in sda_engine.__all__:
        home = importlib.import_module(f"sda_engine.{sda_engine._HOMES[name]}")
        assert getattr(sda_engine, name) is getattr(home, name)
    assert set(sda_engine.__all__) <= set(dir(sda_engine))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sda_engine.Nothing


@pytest.mark.parametrize("settings", [Steering, Sampling, Alignment])
def test_a_field_without_its_name_is_refused_with_the_names(settings):
    with pytest.raises(ConfigError, match=rf"{settings.__name__} takes its fields by name, as in .*Its fields are: "):
        settings("be kind")
