"""ChatSDA's constructor: which fields it takes, which it refuses, and when it loads a model."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import ConfigurableField

from sda_engine import AlignmentWarning, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, ModelLoadError
from sda_integrations.langchain import ChatSDA


@pytest.fixture
def loads(monkeypatch, engine) -> list[dict[str, Any]]:
    """Every call of SteeringEngine.load, which gives the fake engine."""
    calls: list[dict[str, Any]] = []

    def load(model: str, **settings: Any) -> SteeringEngine:
        calls.append({"model": model, **settings})
        return engine

    monkeypatch.setattr(SteeringEngine, "load", load)
    return calls


def test_constructing_loads_nothing_and_takes_milliseconds(loads) -> None:
    started = time.perf_counter()
    for _ in range(10):
        ChatSDA(model="smollm2-135m", alignment="honesty", temperature=0)
    assert time.perf_counter() - started < 1
    assert loads == []


def test_the_first_request_loads_the_model_with_the_settings_given_and_the_next_does_not(loads) -> None:
    chat = ChatSDA(model="some/model", revision="v1", device="cpu", dtype="float32", device_map="auto")
    chat.invoke("Hi")
    chat.invoke("Hi")
    assert loads == [
        {
            "model": "some/model",
            "revision": "v1",
            "device": "cpu",
            "dtype": "float32",
            "device_map": "auto",
            "quantization_config": None,
            "adapters": None,
            "settings": None,
        }
    ]


async def test_loading_does_not_block_the_event_loop(monkeypatch, engine) -> None:
    def slow_load(model: str, **_: Any) -> SteeringEngine:
        time.sleep(0.3)
        return engine

    monkeypatch.setattr(SteeringEngine, "load", slow_load)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await ChatSDA().ainvoke("Hi")
    ticker.cancel()
    assert ticks >= 5


def test_threads_of_a_batch_share_the_engine_that_load_gives(loads, engine) -> None:
    chat = ChatSDA()
    with ThreadPoolExecutor(4) as threads:
        engines = list(threads.map(lambda _: chat.load_engine(), range(4)))
    assert engines == [engine] * 4


def test_two_models_over_one_engine_share_it(engine) -> None:
    first, second = ChatSDA(engine=engine, alignment="honesty"), ChatSDA(engine=engine, alignment="empathy")
    first.invoke("Hi")
    second.invoke("Hi")
    assert [call.alignment.name for call in engine.calls] == ["honesty", "empathy"]


def test_model_name_is_accepted_for_model(loads) -> None:
    assert ChatSDA(model_name="some/model").model == "some/model"


def test_with_an_engine_the_model_goes_by_the_engines_name(engine) -> None:
    assert ChatSDA(engine=engine).model == "fake-model"
    assert ChatSDA(engine=engine, model="fake-model").engine is engine


@pytest.mark.parametrize("field", [{"model": "other"}, {"device": "cpu"}, {"revision": "v1"}])
def test_an_engine_and_a_way_to_load_one_exclude_each_other(field, engine) -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        ChatSDA(engine=engine, **field)


def test_a_load_error_passes_through(monkeypatch) -> None:
    error = ModelLoadError("no such model")

    def fail(model: str, **_: Any) -> SteeringEngine:
        raise error

    monkeypatch.setattr(SteeringEngine, "load", fail)
    with pytest.raises(ModelLoadError) as raised:
        ChatSDA(model="nowhere").invoke("Hi")
    assert raised.value is error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_token": 1}, r"no field 'max_token'. Did you mean 'max_tokens'\? Its fields are: "),
        ({"zzz": 1}, r"no field 'zzz'. Remove it. Its fields are: "),
        ({"temperature": -1}, "temperature cannot be -1: it must be a number of at least 0"),
        ({"temperature": "hot"}, "temperature cannot be 'hot'"),
        ({"top_p": 1.5}, "top_p cannot be 1.5"),
        ({"top_k": 0}, "top_k cannot be 0"),
        ({"max_tokens": 0}, "max_new_tokens cannot be 0"),
        ({"stop": [""]}, "stop cannot be"),
        ({"seed": -1}, "seed cannot be -1"),
        ({"gain": -1}, "gain cannot be -1"),
        ({"amplification": 1.5}, "amplification cannot be 1.5"),
        ({"evaluator": "gpt-4"}, "evaluator cannot be 'gpt-4'"),
        ({"steering": {"gain": 1}}, "steering cannot be .*: it must be a Steering"),
        ({"alignment": 3}, "alignment cannot be 3"),
        ({"alignment": "  "}, "blank"),
        ({"timeout": 0}, "timeout cannot be 0: it must be a number of seconds above 0"),
        ({"timeout": "soon"}, "timeout cannot be 'soon'"),
        ({"timeout": float("inf")}, "timeout cannot be inf"),
        ({"logprobs": 3}, "logprobs cannot be 3: it must be True or False"),
        ({"logprobs": False, "top_logprobs": 3}, "leave out logprobs=False"),
        ({"top_logprobs": -1}, "logprobs cannot be -1"),
        ({"model": 3}, "ChatSDA.model cannot be 3"),
        ({"model": ""}, "ChatSDA.model cannot be ''"),
        ({"engine": "smollm2-135m"}, "ChatSDA.engine cannot be 'smollm2-135m': .*SteeringEngine"),
        ({"quantization_config": {"bits": 4}}, "ChatSDA.quantization_config cannot be"),
    ],
)
def test_a_wrong_field_is_refused_at_construction(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatSDA(**fields)


def test_an_alignment_that_is_nearly_a_presets_name_is_warned_of_at_construction() -> None:
    with pytest.warns(AlignmentWarning, match="honesty"):
        ChatSDA(alignment="Honest")


def test_flat_fields_override_the_steering_object(engine) -> None:
    ChatSDA(engine=engine, steering=Steering(gain=1.0, plausibility=0.1), gain=4.0).invoke("Hi")
    assert engine.calls[0].steering == Steering(gain=4.0, plausibility=0.1)


def test_a_field_that_is_set_later_takes_effect(engine) -> None:
    chat = ChatSDA(engine=engine)
    chat.temperature = 0
    chat.model_copy(update={"max_tokens": 3}).invoke("Hi")
    assert engine.calls[0].sampling == Sampling(temperature=0, max_new_tokens=3)


def test_standard_parameters_for_remote_models_are_dropped(engine) -> None:
    chat = ChatSDA(engine=engine, api_key="sk-canary", max_retries=2)
    assert "sk-canary" not in repr(vars(chat))
    assert chat.invoke("Hi").text


def test_configurable_fields_change_the_alignment_of_one_call(engine) -> None:
    chat = ChatSDA(engine=engine).configurable_fields(alignment=ConfigurableField(id="alignment"))
    chat.invoke("Hi", config={"configurable": {"alignment": "empathy"}})
    chat.invoke("Hi")
    assert engine.calls[0].alignment.name == "empathy"
    assert engine.calls[1].alignment is None


# --- Another model for one call, and what a model can do ---


@pytest.fixture
def others(monkeypatch, make_engine) -> dict[str, Any]:
    """Engines by the name that SteeringEngine.load was asked for, with its settings."""
    engines: dict[str, Any] = {}

    def load(model: str, **settings: Any) -> SteeringEngine:
        engines.setdefault(model, make_engine(model_name=model)).settings = settings
        return engines[model]

    monkeypatch.setattr(SteeringEngine, "load", load)
    return engines


@pytest.mark.parametrize("route", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_model_keyword_answers_from_another_engine(route, others, ask) -> None:
    chat = ChatSDA(model="one", revision="v1", device="cpu")
    for keywords, expected in [({}, "one"), ({"model": "two"}, "two"), ({"model": None}, "one"), ({}, "one")]:
        answer = await ask(route, chat, **keywords)
        assert answer.response_metadata["model_name"] == expected
    assert (await ask(route, chat.bind(model="two").bind(gain=1.0))).response_metadata["model_name"] == "two"
    assert [(len(engine.calls), engine.settings["revision"]) for engine in others.values()] == [(3, "v1"), (2, None)]
    assert others["two"].settings["device"] == "cpu"


def test_the_model_keyword_is_in_cache_keys_and_traces(others) -> None:
    chat = ChatSDA(model="one", cache=InMemoryCache())
    answers = [chat.invoke("Hi", **keywords) for keywords in ({}, {"model": "two"}, {}, {"model": "two"})]
    assert [answer.response_metadata["model_name"] for answer in answers] == ["one", "two", "one", "two"]
    assert [len(engine.calls) for engine in others.values()] == [1, 1]
    assert chat._get_ls_params(model="two")["ls_model_name"] == "two"
    assert chat._get_llm_string(model="one") == chat._get_llm_string()


def test_the_profile_says_what_a_model_can_do_and_its_window_once_it_is_loaded(others) -> None:
    chat = ChatSDA(model="one")
    before = dict(chat.profile)
    assert (before["tool_calling"], before["tool_choice"], before["structured_output"]) == (True, True, True)
    assert "max_input_tokens" not in before
    chat.invoke("Hi", model="two")
    assert chat.profile == before
    chat.invoke("Hi")
    assert chat.profile == {**before, "max_input_tokens": 99, "reasoning_output": False}
    assert ChatSDA(engine=others["one"]).profile == chat.profile


def test_a_profile_of_the_users_own_is_kept(others) -> None:
    chat = ChatSDA(model="one", profile={"max_input_tokens": 5})
    chat.invoke("Hi")
    assert chat.profile == {"max_input_tokens": 5}
