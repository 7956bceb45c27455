import pytest

from sda_engine import Constraint, Output
from sda_engine.adapting.output import OUTPUT_KEYWORDS, read_output, read_tool_choice
from sda_engine.errors import ConfigError
from sda_engine.output.tools import resolve_tool
from tests.tool_choices import SPELLINGS

WEATHER = {"name": "weather", "description": "The weather of a city."}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


def read(**call):
    return read_output(call, to_tool=resolve_tool, to_json_schema=dict)


@pytest.mark.parametrize(("choice", "expected"), SPELLINGS)
def test_a_choice_is_read_in_every_spelling(choice, expected):
    assert read_tool_choice(choice) == expected


@pytest.mark.parametrize("choice", [1, ["weather"], object()])
def test_what_is_no_choice_is_refused_with_what_is(choice):
    with pytest.raises(ConfigError, match=r"tool_choice cannot be .*'auto', 'none', 'any' or the name of a tool"):
        read_tool_choice(choice)


def test_a_call_that_says_nothing_asks_for_free_text():
    assert read() == read(**dict.fromkeys(OUTPUT_KEYWORDS)) == read(temperature=0) == Output()


def test_of_two_tools_with_one_name_the_last_counts():
    output = read(tools=[WEATHER, {**WEATHER, "description": "Rain or not."}])
    assert [tool.description for tool in output.tools] == ["Rain or not."]


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (CITY, Constraint.json_schema(CITY)),
        ({"type": "json_schema", "json_schema": {"name": "City", "schema": CITY}}, Constraint.json_schema(CITY)),
        ({"type": "json_object"}, Constraint.json_schema({"type": "object"})),
        ({"type": "text"}, None),
        (Constraint.regex("yes|no"), Constraint.regex("yes|no")),
    ],
)
def test_a_format_is_read_in_every_form(response_format, expected):
    assert read(response_format=response_format).constraint == expected


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"tools": WEATHER}, "they must be a list"),
        ({"response_format": {"type": "json_schema"}}, "'json_schema': {'name': ..., 'schema': {...}}"),
        ({"response_format": CITY, "constraint": Constraint.regex("yes|no")}, "give one of the two"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(call, said):
    with pytest.raises(ConfigError) as raised:
        read(**call)
    assert said in str(raised.value)
