from typing import Literal

import pytest
from pydantic import BaseModel, Field

from sda_engine import Tool
from sda_engine.errors import ConfigError, ConstraintError
from sda_engine.output.tools import new_call_id, resolve_tool, tool_prompt

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
BARE = {"name": "add", "description": "Adds.", "parameters": PARAMETERS}
NO_ARGUMENTS = {"type": "object", "properties": {}}


class Search(BaseModel):
    """Search the library."""

    query: str = Field(description="what to look for")
    limit: int = 3


def weather(city: str, unit: Literal["c", "f"] = "c"):
    """Tell the weather

    of a city.
    """


@pytest.mark.parametrize(
    "given",
    [
        BARE,
        {"type": "function", "function": BARE},
        {"name": "add", "description": "Adds.", "input_schema": PARAMETERS},
        Tool(name="add", description="Adds.", parameters=PARAMETERS),
    ],
    ids=["bare", "OpenAI", "Anthropic", "Tool"],
)
def test_a_tool_is_the_same_in_every_form_that_describes_it(given):
    tool = resolve_tool(given)
    assert (tool.name, tool.description, tool.parameters) == ("add", "Adds.", PARAMETERS)
    assert tool.as_function() == {"type": "function", "function": BARE}
    assert resolve_tool(tool.as_function()) == tool


def test_a_pydantic_model_is_a_tool_whose_fields_are_the_arguments():
    tool = resolve_tool(Search)
    assert (tool.name, tool.description) == ("Search", "Search the library.")
    assert tool.parameters["required"] == ["query"]
    assert tool.parameters["properties"]["query"]["description"] == "what to look for"
    assert "description" not in tool.parameters


def test_a_function_is_a_tool_by_its_signature_and_docstring():
    tool = resolve_tool(weather)
    assert (tool.name, tool.description) == ("weather", "Tell the weather of a city.")
    assert tool.parameters["required"] == ["city"]
    assert tool.parameters["properties"]["unit"]["enum"] == ["c", "f"]


@pytest.mark.parametrize(
    "given", [{"name": "now"}, {"name": "now", "description": None, "parameters": None}, {"function": {"name": "now"}}]
)
def test_a_tool_without_parameters_takes_no_arguments(given):
    assert resolve_tool(given) == Tool(name="now")
    assert resolve_tool(given).parameters == NO_ARGUMENTS


def test_tools_do_not_share_their_default_parameters():
    resolve_tool({"name": "one"}).parameters["spoilt"] = True
    assert resolve_tool({"name": "two"}).parameters == Tool(name="three").parameters == NO_ARGUMENTS


def positional_only(a: int, /): ...


def odd(a: "NoSuchType"): ...  # noqa: F821


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("add", "type str"),
        (None, "type NoneType"),
        (7, "type int"),
        ({}, "must have a name"),
        ({"description": "Adds."}, "must have a name"),
        ({"function": "add"}, "must have a name"),
        ({"name": ""}, r"Tool\.name.*1 to 128 letters"),
        ({"name": "two words"}, r"Tool\.name cannot be 'two words'"),
        ({"name": "add\n"}, r"Tool\.name"),
        ({"name": "a" * 129}, r"Tool\.name"),
        ({"name": '"}'}, r"Tool\.name"),
        ({"name": 7}, r"Tool\.name cannot be 7"),
        ({"name": "add", "description": 7}, r"Tool\.description cannot be 7: it must be a text"),
        ({"name": "add", "parameters": []}, r"Tool\.parameters.*schema of type object"),
        ({"name": "add", "parameters": {"type": "string"}}, r"Tool\.parameters.*type object"),
        (positional_only, r"Tool\.parameters.*type object"),
        (odd, "'odd' cannot be a tool.*plain types"),
        (Search(query="x"), "type Search"),
    ],
)
def test_what_describes_no_tool_is_refused_with_what_would(given, said):
    with pytest.raises(ConfigError, match=said):
        resolve_tool(given)


def deep(levels):
    schema = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"properties": {"a": {"enum": ["a" * 1_000] * 100}}}, "bytes of JSON"),
        ({"properties": {"a": {"x-guidance": {}}}}, "x-guidance"),
        (deep(100_000), "33 levels"),
    ],
    ids=["bytes", "x-guidance", "100,000 levels"],
)
def test_a_schema_too_large_for_the_grammar_engine_is_a_constraint_error_as_documented(parameters, said):
    with pytest.raises(ConstraintError, match=said):
        resolve_tool({"name": "add", "parameters": parameters})


def test_an_unknown_field_of_a_tool_is_refused():
    with pytest.raises(ConfigError, match=r"no field 'params'.*'parameters'"):
        Tool(name="add", params={})


def test_the_prompt_shows_the_markers_and_every_tool_on_a_line_of_its_own():
    lines = tool_prompt([resolve_tool(BARE), resolve_tool(weather)], "<call>\n", "\n</call>").split("\n")
    assert lines[1:4] == ["<call>", '{"name": "the tool\'s name", "arguments": {"argument": "value"}}', "</call>"]
    assert [line[:16] for line in lines[-2:]] == ['{"name": "add", ', '{"name": "weathe']


def test_call_ids_are_nine_letters_or_digits_and_differ():
    ids = {new_call_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)
