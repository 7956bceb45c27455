"""What identifies a ChatSDA: cache keys, traces and repr, none of which may hold a secret."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps

from sda_engine import Alignment, Steering, SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.evaluators import EvaluationRequest, FixedScore, Score
from sda_integrations.langchain import ChatSDA

CANARY = "sk-canary-0123456789"


@dataclass
class KeyedEvaluator:
    """An evaluator behind a server. Its repr gives the key away."""

    api_key: str = CANARY
    name: str = "KeyedEvaluator(judge-1)"
    needs_response: bool = True

    def evaluate(self, request: EvaluationRequest) -> Score:
        return Score(value=50.0, evaluator=self.name)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        return self.evaluate(request)


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.seen.append((serialized, kwargs))


DIFFERENCES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"alignment": "honesty"}, {}),
    ({"alignment": "honesty"}, {"alignment": "empathy"}),
    ({"alignment": Alignment(instruction="Be kind.")}, {"alignment": Alignment(instruction="Be cold.")}),
    (
        {"alignment": Alignment(instruction="Be kind.", rubric="Rate it.")},
        {"alignment": Alignment(instruction="Be kind.", rubric="Rate it well.")},
    ),
    (
        {"alignment": Alignment(instruction="Be kind.", avoid="Rude text.")},
        {"alignment": Alignment(instruction="Be kind.")},
    ),
    ({"gain": 2.0}, {"gain": 3.0}),
    ({"amplification": 0.1}, {"amplification": 0.2}),
    ({"evaluator": FixedScore(40)}, {"evaluator": FixedScore(60)}),
    ({"steering": Steering(plausibility=0.1)}, {"steering": Steering(plausibility=0.2)}),
    ({"temperature": 0}, {"temperature": 1}),
    ({"top_p": 0.5}, {"top_p": 0.9}),
    ({"top_k": 5}, {}),
    ({"min_p": 0.1}, {}),
    ({"max_reasoning_tokens": 5}, {}),
    ({"max_tokens": 5}, {"max_tokens": 6}),
    ({"stop": ["a"]}, {"stop": ["b"]}),
    ({"seed": 1}, {"seed": 2}),
    ({"logprobs": True}, {}),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENCES)
def test_differently_set_models_do_not_share_cached_answers(one, other, engine) -> None:
    cache = InMemoryCache()
    first, second = (ChatSDA(engine=engine, cache=cache, **fields) for fields in (one, other))
    for chat in (first, second, first, second):
        chat.invoke("Hi")
    assert len(engine.calls) == 2


@pytest.mark.parametrize(("one", "other"), DIFFERENCES)
def test_differently_set_calls_do_not_share_cached_answers(one, other, engine) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache())
    for keywords in (one, other, one, other):
        chat.invoke("Hi", **keywords)
    assert len(engine.calls) == 2


def test_the_same_setting_on_the_model_and_on_the_call_is_the_same_cached_answer(engine) -> None:
    cache = InMemoryCache()
    ChatSDA(engine=engine, cache=cache, alignment="honesty", gain=3.0, stop=["END"]).invoke("Hi")
    ChatSDA(engine=engine, cache=cache).invoke("Hi", alignment="honesty", gain=3.0, stop=["END"])
    assert len(engine.calls) == 1


def test_different_engines_do_not_share_cached_answers(make_engine) -> None:
    cache, engines = InMemoryCache(), [make_engine(model_name="one"), make_engine(model_name="two")]
    for engine in engines:
        ChatSDA(engine=engine, cache=cache).invoke("Hi")
    assert [len(engine.calls) for engine in engines] == [1, 1]


def test_a_timeout_does_not_change_the_cache_key(engine) -> None:
    cache = InMemoryCache()
    ChatSDA(engine=engine, cache=cache, timeout=3).invoke("Hi")
    ChatSDA(engine=engine, cache=cache, timeout=4).invoke("Hi")
    assert len(engine.calls) == 1


async def test_the_async_route_uses_the_same_cache_entries(engine) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache(), alignment="honesty")
    chat.invoke("Hi")
    await chat.ainvoke("Hi")
    assert len(engine.calls) == 1


def test_identity_is_the_same_before_and_after_loading(monkeypatch, engine) -> None:
    monkeypatch.setattr(SteeringEngine, "load", lambda model, **_: engine)
    chat = ChatSDA(model="some/model", alignment="honesty")
    before = chat._identifying_params
    chat.invoke("Hi")
    assert chat._identifying_params == before


def test_load_settings_are_part_of_the_identity() -> None:
    class FourBits:
        def to_dict(self) -> dict[str, object]:
            return {"bits": 4}

    variants = [
        {},
        {"model": "a/b"},
        {"revision": "v1"},
        {"dtype": "float32"},
        {"quantization_config": FourBits()},
    ]
    keys = {ChatSDA(**fields)._get_llm_string() for fields in variants}
    assert len(keys) == len(variants)


def test_identity_is_plain_json_and_says_it_all(engine) -> None:
    chat = ChatSDA(engine=engine, alignment=Alignment(instruction="Be kind.", avoid="Rude text.", name="kindness"))
    identity = json.loads(json.dumps(chat._identifying_params))
    assert identity["model"] == "fake-model"
    assert identity["engine"] == engine.describe()
    assert identity["alignment"] == {
        "instruction": "Be kind.",
        "rubric": None,
        "avoid": "Rude text.",
        "name": "kindness",
    }
    assert identity["steering"] == Steering().describe()
    assert identity["temperature"] == 0.6
    assert identity["max_tokens"] == 512
    assert chat._llm_type == "sda-chat"


def test_no_secret_of_an_evaluator_shows_anywhere(engine) -> None:
    assert CANARY in repr(KeyedEvaluator())
    recorder, cache = Recorder(), InMemoryCache()
    chat = ChatSDA(engine=engine, evaluator=KeyedEvaluator(), cache=cache, callbacks=[recorder])
    chat.invoke("Hi", evaluator=KeyedEvaluator(), steering=Steering(evaluator=KeyedEvaluator()))
    list(chat.stream("Hi", evaluator=KeyedEvaluator(), steering=Steering(evaluator=KeyedEvaluator())))
    shown = [
        repr(chat),
        str(chat),
        chat._identifying_params,
        dumps(chat),
        dumpd(chat),
        chat.model_dump(),
        chat.asdict(),
    ]
    assert CANARY not in repr([*shown, recorder.seen, cache._cache])
    assert "KeyedEvaluator(judge-1)" in repr(recorder.seen)


def test_no_secret_of_an_evaluator_shows_in_a_configuration_error() -> None:
    with pytest.raises(ConfigError) as raised:
        ChatSDA(evaluator=KeyedEvaluator(), temperature=-1)
    assert CANARY not in f"{raised.value} {raised.value.__cause__}"


def test_the_repr_names_model_alignment_and_evaluator_and_no_engine(engine) -> None:
    text = repr(ChatSDA(engine=engine, alignment="honesty", evaluator=FixedScore(40)))
    assert "fake-model" in text
    assert "honesty" in text
    assert "FixedScore(40)" in text
    assert "engine=" not in text


def test_traces_show_the_standard_parameters_as_they_take_effect(engine) -> None:
    chat = ChatSDA(engine=engine, temperature=0.1, stop=["END"])
    assert chat._get_ls_params() == {
        "ls_provider": "sda",
        "ls_model_name": "fake-model",
        "ls_model_type": "chat",
        "ls_temperature": 0.1,
        "ls_max_tokens": 512,
        "ls_stop": ["END"],
    }
    called = chat._get_ls_params(stop=["X"], temperature=0.9, max_tokens=3)
    assert (called["ls_stop"], called["ls_temperature"], called["ls_max_tokens"]) == (["X"], 0.9, 3)


def test_callbacks_see_the_alignment_of_the_call(engine) -> None:
    recorder = Recorder()
    ChatSDA(engine=engine).invoke("Hi", alignment="empathy", config={"callbacks": [recorder]})
    assert recorder.seen[0][1]["invocation_params"]["alignment"]["name"] == "empathy"
