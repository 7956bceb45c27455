"""Steering.scope through both adapters: for whole answers and streams, calls and objects, and in the keys of caches."""

import pytest
from llama_index.core.prompts import PromptTemplate

from sda_engine import Steering
from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.templates import Person, add

pytestmark = [pytest.mark.default_policy, pytest.mark.usefixtures("no_event_loop_is_left_behind")]

FEW = {"alignment": "be kind", "temperature": 0, "max_tokens": 160}
EVERYWHERE, TEXT, CALLS = (Steering(policy="paper", scope=scope) for scope in ("all", "text", "calls"))


def scopes(engine):
    return [request.steering.scope for request in engine.requests]


async def test_a_scope_reaches_the_engine_from_langchain():
    with ScriptedEngine("Hello.") as engine:
        chat = ChatSDA(engine=engine, steering=TEXT, **FEW)
        chat.invoke("hello")
        await chat.ainvoke("hello")
        list(chat.stream("hello"))
        chat.invoke("hello", steering=CALLS)
        assert scopes(engine) == ["text", "text", "text", "calls"]


async def test_a_scope_reaches_the_engine_from_llama_index():
    with ScriptedEngine("Hello.") as engine:
        llm = SDALLM(engine=engine, steering=TEXT, **FEW)
        llm.complete("hello")
        await llm.acomplete("hello")
        list(llm.stream_complete("hello"))
        llm.complete("hello", steering=CALLS)
        assert scopes(engine) == ["text", "text", "text", "calls"]


@pytest.mark.parametrize(("steering", "steered"), [(EVERYWHERE, True), (CALLS, True), (TEXT, False)])
def test_a_forced_call_and_an_object_are_steered_where_the_scope_says_so(engine, steering, steered):
    """By what decides: a tiny model's call is the plain one, token for token, where calls are out of the scope."""
    chat = ChatSDA(engine=engine, steering=steering.replace(gain=8.0, amplification=1.0), **FEW)
    plain = chat.bind_tools([add], tool_choice="any", alignment=None, steering=None).invoke("hello").tool_calls
    calls = chat.bind_tools([add], tool_choice="any").invoke("hello").tool_calls
    assert ([call["args"] for call in calls] != [call["args"] for call in plain]) == steered
    llm = SDALLM(engine=engine, steering=steering.replace(gain=8.0, amplification=1.0), **FEW)
    asked = PromptTemplate("hello")
    given = llm.structured_predict(Person, asked)
    assert (given != llm.structured_predict(Person, asked, llm_kwargs={"alignment": None})) == steered


def test_caches_of_langchain_tell_scopes_apart():
    with ScriptedEngine(call_text("add", {"a": 1, "b": 2})) as engine:
        keys = {str(ChatSDA(engine=engine, steering=steering, **FEW)._get_llm_string()) for steering in (TEXT, CALLS)}
    assert len(keys) == 2
