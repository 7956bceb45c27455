"""LangChain's cache of answers, where calls differ in tools, constraints and the config; see also identity."""

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from pydantic import BaseModel

from sda_engine import Constraint
from sda_integrations.langchain import ChatSDA


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


class Weather(BaseModel):
    """The weather of a city."""

    city: str


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AS_DICT = {"name": "weather", "description": "The weather of a city.", "parameters": SCHEMA}
DIFFERENCES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"tools": [weather]}, {}),
    ({"tools": [weather]}, {"tools": [Weather]}),
    ({"tools": [weather]}, {"tools": [weather, Weather]}),
    ({"tools": [weather, Weather]}, {"tools": [Weather, weather]}),
    ({"tools": [AS_DICT]}, {"tools": [{**AS_DICT, "description": "Another."}]}),
    ({"tools": [AS_DICT]}, {"tools": [{**AS_DICT, "parameters": {"type": "object", "properties": {}}}]}),
    ({"tools": [weather]}, {"tools": [weather], "tool_choice": "any"}),
    ({"tools": [weather], "tool_choice": "none"}, {"tools": [weather], "tool_choice": "weather"}),
    ({"tools": [weather]}, {"tools": [weather], "parallel_tool_calls": True}),
    ({"tools": [weather]}, {"tools": [weather], "response_format": Weather}),
    ({"response_format": Weather}, {"response_format": SCHEMA}),
    ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "text"}}),
    ({"constraint": Constraint.regex("yes|no")}, {"constraint": Constraint.regex("no|yes")}),
    ({"constraint": Constraint.regex("yes")}, {"constraint": Constraint.lark('start: "yes"')}),
    ({"constraint": Constraint.json_schema(SCHEMA)}, {}),
    ({"response_format": SCHEMA, "schema_in_prompt": False}, {"response_format": SCHEMA}),
    ({"config": {"configurable": {"sda_alignment": "honesty"}}}, {}),
    (
        {"config": {"configurable": {"sda_alignment": "honesty"}}},
        {"config": {"configurable": {"sda_alignment": "empathy"}}},
    ),
]


@pytest.mark.parametrize("route", ["invoke", "ainvoke"])
@pytest.mark.parametrize(("one", "other"), DIFFERENCES)
async def test_calls_that_ask_for_different_answers_do_not_share_one(one, other, route, engine, ask) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache())
    for keywords in (one, other, one, other):
        await ask(route, chat, **keywords)
    assert len(engine.calls) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tools": [weather]}, {"tools": [AS_DICT]}),
        ({"tools": [weather], "tool_choice": "any"}, {"tools": [weather], "tool_choice": "required"}),
        ({"tools": [weather], "tool_choice": "auto"}, {"tools": [weather]}),
        ({"tools": []}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": SCHEMA, "strict": True}, {"response_format": SCHEMA}),
        ({"response_format": SCHEMA}, {"constraint": Constraint.json_schema(SCHEMA)}),
        ({"config": {"configurable": {"sda_alignment": "honesty"}}}, {"alignment": "honesty"}),
        ({"config": {"configurable": {"thread_id": "1"}}}, {"config": {"configurable": {"thread_id": "2"}}}),
        ({"model": "fake-model"}, {}),
    ],
)
def test_two_ways_to_ask_for_the_same_share_one_answer(one, other, engine) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache())
    for keywords in (one, other):
        chat.invoke("Hi", **keywords)
    assert len(engine.calls) == 1


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_a_cached_answer_still_has_its_calls_and_figures(make_engine, make_call) -> None:
    engine = make_engine(completion=make_call("weather", city="Oslo"))
    chat = ChatSDA(engine=engine, cache=InMemoryCache(), alignment="honesty").bind_tools([weather])
    first, second = chat.invoke("Hi"), chat.invoke("Hi")
    assert len(engine.calls) == 1
    assert first.tool_calls == second.tool_calls != []
    assert first.response_metadata == second.response_metadata
    assert loads(dumps(first), allowed_objects=[type(first)]) == first  # what caches on disk do


def test_every_description_of_a_call_is_plain_text_without_addresses(engine) -> None:
    chat = ChatSDA(engine=engine)
    key = chat._get_llm_string(tools=[weather], response_format=Weather)
    assert " at 0x" not in key
    assert key == ChatSDA(engine=engine)._get_llm_string(tools=[AS_DICT], response_format=Weather)
