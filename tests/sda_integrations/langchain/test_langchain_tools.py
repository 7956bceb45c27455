"""Tools: bound in every form, called on every route, and read back from every message."""

import json
from dataclasses import replace
from typing import Any, TypedDict

import jsonschema
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from pydantic import BaseModel, Field

from sda_engine import Constraint, Output
from sda_engine.errors import ConfigError, ConstraintError
from sda_integrations.langchain import ChatSDA
from tests.tool_choices import SPELLINGS

ROUTES = ["invoke", "ainvoke", "stream", "astream"]
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # the v3 event stream


def weather(city: str, days: int = 1) -> str:
    """The weather of a city.

    Args:
        city: where.
        days: how many.
    """
    return f"{days} days of rain in {city}"


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="where")
    days: int = 1


class WeatherDict(TypedDict):
    """The weather of a city."""

    city: str
    days: int


class WeatherTool(BaseTool):
    name: str = "weather"
    description: str = "The weather of a city."
    args_schema: type[BaseModel] = Weather

    def _run(self, city: str, days: int = 1) -> str:
        return weather(city, days)


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
DESCRIBED = {"name": "weather", "description": "The weather of a city."}
FORMS: dict[str, Any] = {
    "function": weather,
    "pydantic": Weather,
    "typed dict": WeatherDict,
    "@tool": tool(weather),
    "BaseTool": WeatherTool(),
    "OpenAI": {"type": "function", "function": {**DESCRIBED, "parameters": PARAMETERS}},
    "OpenAI function": {**DESCRIBED, "parameters": PARAMETERS},
    "Anthropic": {**DESCRIBED, "input_schema": PARAMETERS},
    "JSON schema": {"title": "weather", "description": "The weather of a city.", **PARAMETERS},
}
PLACE = {"type": "object", "properties": {"town": {"type": "boolean"}}, "required": ["town"]}
AS_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_tool_reaches_the_engine(form, engine) -> None:
    ChatSDA(engine=engine).bind_tools([FORMS[form]]).invoke("Hi")
    (given,) = engine.calls[0].output.tools
    assert given.name.casefold() == "weather" + ("dict" if form == "typed dict" else "")
    assert given.description.startswith("The weather of a city.")
    types = {name: field["type"] for name, field in given.parameters["properties"].items()}
    assert types == {"city": "string", "days": "integer"}


@pytest.mark.parametrize(("choice", "expected"), SPELLINGS)
def test_every_spelling_of_a_choice_reaches_the_engine(choice, expected, engine) -> None:
    chat = ChatSDA(engine=engine)
    chat.bind_tools([weather], tool_choice=choice).invoke("Hi")
    chat.invoke("Hi", tools=[weather], tool_choice=choice)
    assert [call.output.tool_choice for call in engine.calls] == [expected, expected]


@pytest.mark.parametrize(("keyword", "expected"), [({}, False), ({"parallel_tool_calls": True}, True)])
def test_several_calls_in_one_answer_are_a_choice_of_the_user(keyword, expected, engine) -> None:
    ChatSDA(engine=engine).bind_tools([weather], **keyword).invoke("Hi")
    assert engine.calls[0].output.parallel_tool_calls is expected


def test_a_call_without_tools_after_one_with_them_has_none(engine) -> None:
    chat = ChatSDA(engine=engine)
    chat.bind_tools([weather]).invoke("Hi")
    chat.invoke("Hi")
    assert engine.calls[1].output == Output()


def test_of_several_tools_by_one_name_the_last_counts(engine) -> None:
    ChatSDA(engine=engine).bind_tools([{"name": "weather"}, Weather, weather]).invoke("Hi")
    assert [given.name for given in engine.calls[0].output.tools] == ["weather", "Weather"]
    assert engine.calls[0].output.tools[0].parameters["properties"]


@pytest.mark.parametrize(
    ("tools", "keywords", "message"),
    [
        ([3], {}, "A tool cannot be an object of type int"),
        ([{"no": "name"}], {}, "A tool cannot be an object of type dict"),
        ([{"name": "a b"}], {}, "Tool.name cannot be 'a b'"),
        ([{"name": "a", "parameters": {"type": "array"}}], {}, "a JSON schema of type object"),
        ([{"type": "web_search_preview"}], {}, "A tool cannot be"),
        ([weather], {"tool_choice": "wether"}, r"cannot be 'wether'.*name of one of the tools \(weather\)"),
        ([weather], {"tool_choice": 3}, "tool_choice cannot be 3"),
        ([weather], {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice cannot be 'x'"),
        ([weather], {"parallel_tool_calls": "yes"}, "parallel_tool_calls cannot be 'yes'"),
        ([weather], {"response_format": {"type": "json_schema"}}, "response_format cannot be"),
        ([weather], {"response_format": AS_FORMAT, "constraint": Constraint.regex("a")}, "give one of the two"),
    ],
)
def test_what_is_wrong_shows_when_it_is_bound(tools, keywords, message, engine) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatSDA(engine=engine).bind_tools(tools, **keywords)


def test_arguments_too_large_to_be_enforced_show_when_they_are_bound(engine) -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": 10**6}}}
    with pytest.raises(ConstraintError, match="too large"):
        ChatSDA(engine=engine).bind_tools([{"name": "write", "parameters": schema}])


@pytest.mark.parametrize("keyword", ["tool_choise", "output", "max_token", "tool"])
def test_unknown_keywords_are_refused_beside_tools_too(keyword, engine) -> None:
    with pytest.raises(ConfigError, match=f"no call keyword '{keyword}'"):
        ChatSDA(engine=engine).bind_tools([weather], **{keyword: "any"}).invoke("Hi")
    assert engine.calls == []


# --- Calls in answers ---


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("choice", ["any", "weather"])
async def test_a_forced_call_is_valid_and_the_same_on_every_route(choice, route, tiny, ask) -> None:
    chat = ChatSDA(engine=tiny, alignment="honesty", temperature=0, max_tokens=200)
    model = chat.bind_tools([FORMS["@tool"], {"name": "idle"}], tool_choice=choice)
    whole, answer = model.invoke("Hi"), await ask(route, model)
    (call,) = answer.tool_calls
    assert call["id"]
    assert (call["name"], call["args"]) == (whole.tool_calls[0]["name"], whole.tool_calls[0]["args"])
    if choice == "weather" or call["name"] == "weather":
        jsonschema.validate(call["args"], {**PARAMETERS, "required": ["city"], "additionalProperties": False})
    assert (answer.text, answer.invalid_tool_calls) == ("", [])
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    known = {"input_token_details": {"cache_read": whole.usage_metadata["input_tokens"] - 1}}
    assert answer.usage_metadata == whole.usage_metadata | known


@pytest.mark.parametrize("route", ROUTES)
async def test_several_calls_are_the_same_on_every_route(route, make_engine, make_call, ask) -> None:
    arguments = [{"city": "Oslo"}, {"city": "Århus", "days": 2}, {}]
    engine = make_engine(completion=make_call("weather", *arguments))
    answer = await ask(route, ChatSDA(engine=engine).bind_tools([weather]))
    assert [call["args"] for call in answer.tool_calls] == arguments
    assert [call["id"] for call in answer.tool_calls] == ["call-1", "call-2", "call-3"]


def test_a_stream_gives_a_call_in_chunks_and_the_figures_with_the_last_one(tiny) -> None:
    chat = ChatSDA(engine=tiny, temperature=0, max_tokens=200)
    chunks = list(chat.bind_tools([weather], tool_choice="any").stream("Hi"))
    parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
    assert len(parts) > 3
    assert [part["name"] for part in parts] == ["weather"] + [None] * (len(parts) - 1)
    assert all(chunk.usage_metadata is None and not chunk.response_metadata for chunk in chunks[:-1])
    assert chunks[-1].chunk_position == "last"
    assert chunks[-1].usage_metadata["output_tokens"] > 0
    assert chunks[-1].response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("max_tokens", [12, 60])  # before the name is whole, and inside the arguments
async def test_a_call_that_is_cut_off_is_an_invalid_call_on_every_route(max_tokens, route, tiny, ask) -> None:
    chat = ChatSDA(engine=tiny, temperature=0, max_tokens=max_tokens)
    answer = await ask(route, chat.bind_tools([weather], tool_choice="any"))
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.tool_calls == []
    assert len(answer.invalid_tool_calls) == 1


@pytest.mark.parametrize("route", ROUTES)
async def test_v1_output_holds_reasoning_text_and_calls_as_blocks(route, make_engine, make_call, ask) -> None:
    engine = make_engine(completion=replace(make_call("weather", city="Oslo"), text="Wait.", reasoning="Rain, or not?"))
    answer = await ask(route, ChatSDA(engine=engine, output_version="v1").bind_tools([weather]))
    assert isinstance(answer.content, list)
    assert [block["type"] for block in answer.content] == ["reasoning", "text", "tool_call"]
    reasoning, text, call = answer.content
    assert reasoning["reasoning"] == "Rain, or not?"
    assert text["text"] == "Wait."
    assert (call["name"], call["args"], call["id"]) == ("weather", {"city": "Oslo"}, "call-1")
    assert "args" not in reasoning


@pytest.mark.parametrize("route", ROUTES)
async def test_reasoning_is_a_content_block_and_no_text(route, make_engine, played, ask) -> None:
    answer = await ask(route, ChatSDA(engine=make_engine(completion=replace(played, reasoning="Round, or not?"))))
    assert answer.text == "The earth is round."
    assert answer.content_blocks == [
        {"type": "reasoning", "reasoning": "Round, or not?"},
        {"type": "text", "text": "The earth is round."},
    ]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_v3_event_stream_carries_reasoning_and_calls(is_async, make_engine, make_call) -> None:
    engine = make_engine(completion=replace(make_call("weather", city="Oslo"), reasoning="Rain, or not?"))
    model = ChatSDA(engine=engine).bind_tools([weather])
    if is_async:
        answer = await (await model.astream_events("Hi", version="v3")).output
    else:
        answer = model.stream_events("Hi", version="v3").output
    assert [(call["name"], call["args"], call["id"]) for call in answer.tool_calls] == [
        ("weather", {"city": "Oslo"}, "call-1")
    ]
    assert [block["reasoning"] for block in answer.content_blocks if block["type"] == "reasoning"] == ["Rain, or not?"]
    assert answer.usage_metadata == {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11}
    assert answer.response_metadata["finish_reason"] == "tool_calls"


# --- Tools with a format of the text ---


@pytest.mark.parametrize("tools", [[], [weather]])
def test_a_response_format_holds_with_and_without_tools(tools, tiny) -> None:
    chat = ChatSDA(engine=tiny, temperature=0, max_tokens=200)
    answer = chat.bind_tools(tools, response_format=AS_FORMAT, strict=True).invoke("Hi")
    if answer.tool_calls:
        assert tools
        assert answer.tool_calls[0]["name"] == "weather"
    else:
        jsonschema.validate(json.loads(answer.text), PLACE)


def test_the_engine_is_told_of_both_tools_and_response_format(engine) -> None:
    ChatSDA(engine=engine).bind_tools([weather], response_format=AS_FORMAT, tool_choice="auto").invoke("Hi")
    output = engine.calls[0].output
    assert [given.name for given in output.tools] == ["weather"]
    assert output.constraint == Constraint.json_schema(PLACE)
    assert not output.must_call


# --- Calls in the history, and what they count ---


def test_a_history_of_calls_results_and_failures_reaches_the_engine(engine) -> None:
    calls = [{"name": "weather", "args": {"city": city}, "id": city, "type": "tool_call"} for city in ("Oslo", "Rome")]
    history = [
        HumanMessage("Which weather?"),
        AIMessage("Wait.", tool_calls=calls),
        ToolMessage("rain", tool_call_id="Oslo", name="weather"),
        ToolMessage("no such city", tool_call_id="Rome", status="error"),
    ]
    ChatSDA(engine=engine).bind_tools([weather]).invoke(history)
    _, answer, *results = engine.calls[0].messages
    assert [call["function"]["arguments"] for call in answer["tool_calls"]] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert [result["content"] for result in results] == ["rain", "Error: no such city"]
    assert [result["tool_call_id"] for result in results] == ["Oslo", "Rome"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_an_answer_with_a_call_can_go_back_into_the_messages(version, route, tiny, ask) -> None:
    chat = ChatSDA(engine=tiny, temperature=0, max_tokens=100, output_version=version)
    model = chat.bind_tools([weather], tool_choice="any")
    first = await ask(route, model)
    result = tool(weather).invoke(first.tool_calls[0])
    history = [HumanMessage("Hi"), first, result]
    again = await ask(route, model, history)
    assert again.tool_calls[0]["id"] != first.tool_calls[0]["id"]
    assert again.usage_metadata["input_tokens"] == chat.get_num_tokens_from_messages(history, tools=[weather])


def test_token_counts_include_the_tools(tiny, engine) -> None:
    chat, question = ChatSDA(engine=tiny, temperature=0, max_tokens=2), [HumanMessage("Hi")]
    plain, counted = (chat.get_num_tokens_from_messages(question, tools=tools) for tools in (None, [weather, Weather]))
    assert counted > plain
    assert counted == chat.bind_tools([weather, Weather]).invoke(question).usage_metadata["input_tokens"]
    assert ChatSDA(engine=engine).get_num_tokens_from_messages(question, tools=[weather]) == 11
