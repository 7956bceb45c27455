import pytest

from sda_engine.config import Steering
from sda_engine.errors import ConfigError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore, SelfRatingEvaluator, UncertaintyEvaluator
from sda_engine.testing import ScriptedEvaluator
from sda_integrations.server import EvaluatorsByName, EvaluatorSettings, ServerSettings

URL = "http://judge.internal:9/v1"


@pytest.fixture
def judged():
    """The evaluators of a server with a judge of its own."""
    judge = EvaluatorSettings(spec="openai:strict-judge", url=URL, api_key="operators-own")
    return EvaluatorsByName.of(ServerSettings(evaluators={"judge": judge, "sharp": "contrastive:sharpness=8"}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("contrastive", ContrastiveEvaluator),
        ("contrastive:sharpness=2", ContrastiveEvaluator),
        ("self-rating", SelfRatingEvaluator),
        ("uncertainty", UncertaintyEvaluator),
        ("fixed:30", FixedScore),
    ],
)
def test_what_needs_nothing_but_the_model_may_be_named_by_anybody(name, kind):
    assert isinstance(EvaluatorsByName({}).get(name), kind)


@pytest.mark.parametrize("name", ["openai:gpt-4.1", "reward:some/model", "openai:strict-judge", "fixed:lots", "nobody"])
def test_nobody_else_may_be_named_and_the_error_tells_who_may(judged, name):
    with pytest.raises(ConfigError, match="this server knows judge, sharp, contrastive") as refused:
        judged.get(name)
    assert URL not in str(refused.value)
    assert "--evaluator" not in str(refused.value), "that is how the operator names them"


def test_the_judge_of_the_server_is_known_by_its_name_and_replies_tell_no_address(judged):
    judge = judged.get("judge")
    assert URL in judge.name, "its own name tells everything that changes a score"
    assert judged.public_name(judge.name) == "judge"
    assert dict(judged.breakers()) == {"judge": judge.breaker}


def test_those_that_need_nothing_keep_the_names_that_they_have_in_process(judged):
    for name in ("fixed:30", "contrastive:sharpness=2", "sharp", "self-rating", "uncertainty"):
        own = judged.get(name).name
        assert judged.public_name(own) == own


def test_an_evaluator_that_the_server_does_not_know_has_no_name_in_replies(judged):
    assert judged.public_name("EnsembleEvaluator([http://secret.internal])") == "evaluator"


def test_a_default_that_is_a_spec_is_known_by_that_spec():
    evaluators = EvaluatorsByName.of(
        ServerSettings(
            evaluator="openai:judge", evaluators={"openai:judge": EvaluatorSettings(spec="openai:judge", url=URL)}
        )
    )
    assert URL in evaluators.get("openai:judge").name


def test_an_object_may_be_an_evaluator_of_the_server():
    mine = ScriptedEvaluator([80])
    evaluators = EvaluatorsByName({"mine": mine})
    assert evaluators.get("mine") is mine
    assert evaluators.public_name(mine.name) == "mine"


def test_names_with_parameters_of_clients_own_are_counted_together(judged):
    assert {judged.kind(name) for name in ("fixed:1", "fixed:2", "fixed")} == {"fixed"}
    assert {judged.kind(judged.get(f"fixed:{score}").name) for score in (1, 2)} == {"FixedScore"}
    assert judged.kind("judge") == "judge"


def test_an_evaluator_that_steering_holds_is_known_too():
    mine, chooser = ScriptedEvaluator([80]), ScriptedEvaluator([70])
    evaluators = EvaluatorsByName.of(ServerSettings(steering=Steering(evaluator=mine, chooser=chooser)))
    assert evaluators.public_name(mine.name) == "default-evaluator"
    assert evaluators.get("default-chooser") is chooser
    assert "default-evaluator" not in str(EvaluatorsByName.of(ServerSettings())._unknown("x"))


def test_a_spec_that_means_nothing_is_told_with_the_name_it_was_given_for():
    with pytest.raises(ConfigError, match=r"The evaluator 'judge': .*'openei:x'"):
        EvaluatorsByName({"judge": EvaluatorSettings(spec="openei:x")})
    with pytest.raises(ConfigError, match="api_key is for openai:MODEL"):
        EvaluatorsByName({"sharp": EvaluatorSettings(spec="contrastive", api_key="k")})


def test_the_default_and_the_chooser_take_their_places_in_steering(client_of):
    app = client_of(evaluator="contrastive", chooser="self-rating", steering=Steering(gain=3.0))._transport.app
    steering = app.state.service.defaults.settings.steering
    assert isinstance(steering.evaluator, ContrastiveEvaluator)
    assert isinstance(steering.chooser, SelfRatingEvaluator)
    assert steering.gain == 3.0
