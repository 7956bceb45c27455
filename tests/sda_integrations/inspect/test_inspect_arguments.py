"""Model arguments, and those of one call in extra_body."""

import pytest

from sda_engine import Alignment, EngineSettings, Steering
from sda_engine.choosing import Revision
from sda_engine.errors import ConfigError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_integrations.inspect import SDAModelAPI, SimulatedEvaluator
from sda_integrations.inspect.arguments import read_arguments, read_extra_body
from sda_integrations.inspect.evaluators import EvaluatorReader


def test_what_a_command_line_gives_becomes_settings() -> None:
    given = {
        "alignment": {"honesty": 1.0, "empathy": 0.5},
        "steering": {"policy": "revise", "revisions": [{"sees": "answer"}], "chooser": "contrastive"},
        "gain": 3,
        "evaluator": "simulated:2",
        "min_p": 0.1,
        "engine_settings": {"max_rows": 8},
        "device": "cpu",
        "trace": False,
    }
    arguments = read_arguments("m", given)
    assert isinstance(arguments.request["alignment"], Alignment)
    steering = arguments.request["steering"]
    assert isinstance(steering, Steering)
    assert steering.revisions == (Revision(sees="answer"),)
    assert isinstance(steering.chooser, ContrastiveEvaluator)
    assert isinstance(arguments.request["evaluator"], SimulatedEvaluator)
    assert (arguments.request["gain"], arguments.request["min_p"]) == (3, 0.1)
    assert arguments.settings == EngineSettings(max_rows=8)
    assert arguments.loading == {"device": "cpu"}
    assert not arguments.trace


def test_an_alignment_that_was_written_down_is_one_again() -> None:
    own = Alignment(instruction="Be kind.", name="kind")
    assert read_arguments("m", {"alignment": own.model_dump(mode="json")}).request["alignment"] == own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alignment_": "honesty"}, r"sda/m has no argument 'alignment_'. Did you mean 'alignment'\?"),
        ({"temperature": 0}, r"'temperature' is no model argument: give it as GenerateConfig\(temperature=...\)"),
        ({"stop": "x"}, r"GenerateConfig\(stop_seqs=...\), or --stop-seqs"),
        ({"max_new_tokens": 5}, "--max-tokens"),
        ({"gain": -1}, "gain cannot be -1"),
        ({"steering": {"gian": 1}}, "Did you mean 'gain'"),
        ({"steering": "strong"}, "steering cannot be 'strong'"),
        ({"evaluator": "gpt"}, "evaluator cannot be 'gpt'.*simulated:SECONDS"),
        ({"evaluator": "simulated:-1"}, "seconds cannot be -1.0: it must be a finite number of at least 0"),
        ({"evaluator": "simulated:soon"}, "evaluator cannot be 'simulated:soon'"),
        ({"evaluator": 5}, "evaluator cannot be 5"),
        ({"evaluator": "contrastive", "amplification": 0.5}, "amplification"),
        ({"engine_settings": 5}, "engine_settings cannot be 5"),
        ({"engine_settings": {"max_rows": 1}}, "max_rows cannot be 1"),
        ({"trace": "yes"}, "trace cannot be 'yes'"),
        ({"engine": "here"}, "engine cannot be 'here'"),
        ({"evaluator_url": 5}, "evaluator_url cannot be 5"),
    ],
)
def test_what_is_wrong_shows_at_construction(given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SDAModelAPI("m", **given)


@pytest.mark.parametrize("given", [{"device": "cpu"}, {"engine_settings": {}}, {"engine": object()}])
def test_beside_a_server_nothing_is_loaded_here(given) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(given))} says how to load a model.*give .* to the server"):
        SDAModelAPI("m", base_url="http://localhost:1", **given)


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("tiny-llama", {"device": "cpu"}, "device says how to load a model"),
        ("tiny-llama", {"engine_settings": {}}, "engine_settings says how"),
        ("other", {}, "name it sda/tiny-llama"),
    ],
)
def test_an_engine_at_hand_is_neither_loaded_nor_renamed(engine, model, more, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SDAModelAPI(model, engine=engine, **more)


def test_the_same_text_is_one_evaluator() -> None:
    reader = EvaluatorReader()
    assert reader.read("evaluator", "simulated:1") is reader.read("evaluator", "simulated:1")
    assert reader.read("evaluator", "fixed:30") == FixedScore(30)
    assert reader.read("evaluator", None) is None


def test_a_judge_asks_the_server_that_is_named() -> None:
    judge = EvaluatorReader("http://localhost:9/v1").read("evaluator", "openai:judge")
    assert "localhost:9" in judge.name


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"top_p": 0.5}, r"'top_p' is no entry of extra_body: give it as GenerateConfig\(top_p=...\)"),
        ({"device": "cpu"}, "'device' is no entry of extra_body, since it is about the model: give it as -M device="),
        ({"gian": 1}, "extra_body has no entry 'gian'. Did you mean 'gain'"),
    ],
)
def test_what_is_no_setting_of_a_call_is_refused_in_extra_body(extra, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_extra_body(extra, EvaluatorReader())
