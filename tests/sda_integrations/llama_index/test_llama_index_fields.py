"""Construction, loading, and what becomes of an SDALLM that is copied or written down."""

import copy
import json
import pickle
import sys
import threading

import pytest
from llama_index.core import Settings
from llama_index.core.llms.utils import resolve_llm
from pydantic import ValidationError

import sda_integrations.llama_index
from sda_engine import Alignment, Steering, SteeringEngine
from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    EnsembleEvaluator,
    FixedScore,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)
from sda_engine.testing import ScriptedEvaluator, tiny_engine
from sda_integrations.llama_index import SDALLM, call_settings


@pytest.fixture
def loads(monkeypatch, scripted):
    """The settings of every load, each of which gives the scripted engine."""
    settings = []

    def load(**given):
        settings.append(given)
        return scripted

    monkeypatch.setattr(SteeringEngine, "load", load)
    return settings


class SecretiveEvaluator(ScriptedEvaluator):
    """An evaluator with a key that must not get out."""

    name = "SecretiveEvaluator"
    api_key = "sk-secret"

    def __repr__(self):
        return f"SecretiveEvaluator({self.api_key!r})"


def test_construction_loads_nothing(loads):
    SDALLM(alignment="honesty").to_payload()
    assert not loads


def test_the_model_is_loaded_once_with_its_settings(loads, scripted):
    llm = SDALLM(model="some/model", revision="v1", device="cpu", dtype="float32")
    llm.complete("Hi")
    llm.complete("Hi")
    assert llm.load() is scripted
    assert loads == [
        {
            "model": "some/model",
            "revision": "v1",
            "device": "cpu",
            "dtype": "float32",
            "device_map": None,
            "quantization_config": None,
            "adapters": None,
            "settings": None,
        }
    ]


def test_metadata_tells_the_engines_context_window_and_that_it_calls_tools(loads, scripted):
    metadata = SDALLM(max_tokens=77).metadata
    assert metadata.context_window == scripted.context_window
    assert metadata.num_output == 77
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert metadata.model_name == "smollm2-135m"
    assert len(loads) == 1


def test_metadata_loads_nothing_where_the_context_window_is_given(loads):
    metadata = SDALLM(context_window=512).metadata
    assert metadata.context_window == 512
    assert metadata.num_output == 256  # the engine's default of 512 would leave no room for a prompt
    assert not loads


def test_an_engine_in_use_gives_its_name_to_the_model(llm, scripted, loads):
    assert llm.model == llm.metadata.model_name == "scripted"
    assert llm.load() is scripted
    assert not loads


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperaturee": 1}, "no field 'temperaturee'. Did you mean 'temperature'"),
        ({"temperature": -1}, "at least 0"),
        ({"temperature": "hot"}, "'hot'"),
        ({"top_p": 0}, "at most 1"),
        ({"top_k": 0}, "at least 1"),
        ({"min_p": 2}, "from 0 to 1"),
        ({"max_reasoning_tokens": -1}, "at least 0"),
        ({"max_tokens": 0}, "at least 1"),
        ({"stop": ""}, "none of them empty"),
        ({"seed": -1}, "from 0"),
        ({"logprobs": -1}, "from 0 to 100"),
        ({"gain": -1}, "at least 0"),
        ({"amplification": 2}, "from 0 to 1"),
        ({"evaluator": "gpt"}, "must be an evaluator"),
        ({"steering": {"gain": 2}}, "must be a Steering"),
        ({"alignment": 5}, "alignment cannot be 5"),
        ({"alignment": " "}, "blank"),
        ({"alignment": {"instruktion": "x"}}, "no field 'instruktion'"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": True}, "above 0"),
        ({"timeout": float("inf")}, "above 0"),
        ({"context_window": 0}, "context_window cannot be 0"),
        ({"model": ""}, "model cannot be ''"),
        ({"device": 3}, "device cannot be 3"),
        ({"engine": "scripted"}, "SteeringEngine.load"),
    ],
)
def test_wrong_fields_are_refused_at_construction(fields, said):
    with pytest.raises(ConfigError, match=said):
        SDALLM(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"model": "other"}, {"revision": "v1"}, {"device": "cpu"}, {"dtype": "float32"}, {"device_map": "auto"}],
)
def test_an_engine_does_not_go_with_settings_to_load_another(scripted, fields):
    with pytest.raises(ConfigError, match="no effect on an engine that is loaded already"):
        SDALLM(engine=scripted, **fields)


def test_fields_can_be_changed_later_but_not_which_model_answers(llm, scripted):
    llm.temperature = 0.1
    llm.complete("Hi")
    assert scripted.requests[-1].sampling.temperature == 0.1
    llm.temperature = -1
    with pytest.raises(ConfigError, match="at least 0"):
        llm.complete("Hi")
    with pytest.raises(ValidationError, match="frozen"):
        llm.model = "other"


def test_settings_accept_it(monkeypatch, llm):
    monkeypatch.setattr(Settings, "_llm", None)
    Settings.llm = llm
    assert Settings.llm is llm
    assert resolve_llm(llm) is llm


def test_nothing_secret_is_written_down(scripted):
    evaluator = SecretiveEvaluator([50])
    llm = SDALLM(engine=scripted, evaluator=evaluator, steering=Steering(evaluator=evaluator))
    dumps = [json.dumps(llm.to_dict()), llm.to_json(), json.dumps(llm.to_payload()), repr(llm), str(llm)]
    dumps.append(llm.model_dump_json())
    for dump in dumps:
        assert "sk-secret" not in dump
    assert llm.to_dict()["evaluator"] == "SecretiveEvaluator"
    assert "engine" not in llm.to_dict()


def test_a_payload_holds_no_secret_of_a_block_either(llm):
    with call_settings(evaluator=SecretiveEvaluator([50]), steering=Steering(gain=3.0)):
        payload = json.dumps(llm.to_payload())
    assert "sk-secret" not in payload
    assert "SecretiveEvaluator" in payload


def test_the_payload_tells_how_answers_are_made():
    payload = SDALLM(alignment="honesty", gain=3.0, temperature=0).to_payload()
    assert payload["class_name"] == SDALLM.class_name() == "SDALLM"
    assert payload["model_name"] == "smollm2-135m"
    assert payload["alignment"]["name"] == "honesty"
    assert payload["steering"]["gain"] == 3.0
    assert payload["temperature"] == 0


@pytest.mark.parametrize(
    "alignment", ["honesty", None, Alignment(instruction="Speak plainly.", avoid="Speak in jargon.")]
)
def test_it_survives_to_dict_and_from_dict(alignment):
    llm = SDALLM(alignment=alignment, gain=3.0, stop=["\n"], system_prompt="Be brief.", device="cpu")
    again = SDALLM.from_dict(llm.to_dict())
    assert again.to_dict() == llm.to_dict()
    assert again.alignment == alignment
    assert SDALLM.from_json(llm.to_json()).to_dict() == llm.to_dict()


def test_from_dict_refuses_an_evaluator_that_it_cannot_restore_and_takes_it_again():
    evaluator = ScriptedEvaluator([50])
    written = SDALLM(evaluator=evaluator).to_dict()
    with pytest.raises(ConfigError, match=r"must be an evaluator.* SDALLM.from_dict\(data, evaluator="):
        SDALLM.from_dict(written)
    assert SDALLM.from_dict(written, evaluator=evaluator).evaluator is evaluator


@pytest.mark.parametrize(
    "evaluator",
    [
        FixedScore(40),
        FixedScore(0.5),
        ContrastiveEvaluator(sharpness=2.5),
        UncertaintyEvaluator(2.0, aggregate="tail"),
        SelfRatingEvaluator(scale="yes_no"),
        EnsembleEvaluator([FixedScore(1), ContrastiveEvaluator()], max_disagreement=9),
    ],
)
def test_from_dict_makes_an_evaluator_of_ours_again(evaluator):
    again = SDALLM.from_dict(SDALLM(evaluator=evaluator).to_dict())
    assert (type(again.evaluator), again.evaluator.name) == (type(evaluator), evaluator.name)


def test_from_dict_makes_steering_again():
    steering = Steering(gain=3.0, evaluator=FixedScore(30), critical_categories=(), guard="relax", plausibility=0.1)
    assert SDALLM.from_dict(SDALLM(steering=steering).to_dict()).steering == steering
    with pytest.raises(ConfigError, match="amplification_curve"):
        SDALLM.from_dict(SDALLM(steering=Steering(amplification_curve=lambda score: 1.0)).to_dict())


@pytest.mark.parametrize(
    ("most", "window", "planned"), [(8192, 8192, 4096), (100, 8192, 100), (9, 1, 1), (512, 600, 300)]
)
def test_metadata_plans_at_least_half_of_the_window_for_prompts(most, window, planned):
    assert SDALLM(max_tokens=most, context_window=window).metadata.num_output == planned


def test_a_query_with_as_many_tokens_as_the_window_holds_is_answered(index):
    with tiny_engine(context_window=4096) as engine:
        asked = index.as_query_engine(llm=SDALLM(engine=engine, max_tokens=4096, stop=["e"], seed=1))
        assert str(asked.query("When?")) != ""


def test_a_pickled_copy_loads_the_model_by_its_name(loads, scripted):
    llm = SDALLM(model="some/model", gain=3.0)
    llm.load()
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301
    assert again._loaded is None
    assert again.gain == 3.0
    assert again.load() is scripted
    assert [given["model"] for given in loads] == ["some/model"] * 2


def test_a_pickled_copy_of_a_model_in_memory_says_that_it_needs_an_engine(engine):
    llm = pickle.loads(pickle.dumps(SDALLM(engine=engine, alignment="honesty", gain=3.0)))  # noqa: S301
    llm = pickle.loads(pickle.dumps(llm))  # noqa: S301
    assert (llm.engine, llm.model, llm.gain) == (None, engine.name, 3.0)
    with pytest.raises(ModelLoadError, match="Give the copy an engine"):
        llm.complete("Hi")
    assert llm.model_copy(update={"engine": engine}).complete("Hi", max_tokens=2).text


def test_a_copy_from_a_dict_of_a_model_in_memory_says_that_it_needs_an_engine(engine):
    written = SDALLM(engine=engine).to_dict()
    again = SDALLM.from_dict(written)
    assert again.to_dict() == written
    with pytest.raises(ModelLoadError, match="in memory alone"):
        again.load()
    assert SDALLM.from_dict(written, engine=engine).load() is engine


def test_an_evaluator_that_cannot_be_pickled_is_not_left_out_in_silence(scripted):
    evaluator = ScriptedEvaluator([50])
    evaluator.lock = threading.Lock()
    with pytest.raises(ConfigError, match="evaluator cannot be pickled"):
        pickle.dumps(SDALLM(engine=scripted, evaluator=evaluator))


def test_two_models_in_memory_are_two_in_caches_and_events_though_their_names_are_one(scripted):
    with tiny_engine() as one, tiny_engine(seed=1) as other:
        first, second, again = SDALLM(engine=one), SDALLM(engine=other), SDALLM(engine=one)
        assert first.to_dict() == again.to_dict() != second.to_dict()
        assert first.to_payload() == again.to_payload() != second.to_payload()
        before = first.to_dict()
        one.model.load_state_dict(other.model.state_dict())
        assert first.to_dict() not in (before, second.to_dict())


def test_deep_copies_share_the_engine(engine):
    llm = SDALLM(engine=engine, stop=["\n"])
    copied = copy.deepcopy(llm)
    assert copied.load() is engine
    assert copied.stop == llm.stop
    assert copied.stop is not llm.stop


def test_there_is_a_json_schema():
    properties = SDALLM.model_json_schema()["properties"]
    assert "alignment" in properties
    assert not {"engine", "evaluator", "steering"} & set(properties)


def test_the_package_exports_what_it_says():
    assert sda_integrations.llama_index.__all__ == ["SDALLM", "LLMEvaluator", "call_settings"]
    for name in sda_integrations.llama_index.__all__:
        assert callable(getattr(sda_integrations.llama_index, name))


def test_without_llama_index_core_the_import_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.core", None)
    monkeypatch.delitem(sys.modules, "sda_integrations.llama_index")
    with pytest.raises(ImportError, match=r"pip install 'sda-integrations\[llama-index\]'"):
        import sda_integrations.llama_index  # noqa: F401
