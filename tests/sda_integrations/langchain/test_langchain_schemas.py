"""What may be a schema: types of Python, strict models, TypedDicts whose keys may be missing, and what is refused."""

import json
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Required, TypedDict
from uuid import UUID

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from sda_engine.errors import ConfigError, IncompleteOutputError, SDAError
from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.langchain import ChatSDA
from sda_integrations.langchain.schemas import to_json_schema
from sda_integrations.langchain.structured import call_parser, text_parser

METHODS = ["json_schema", "json_mode", "function_calling"]
ROUTES = ["invoke", "ainvoke", "stream", "astream"]
UUID_TEXT = "12345678-1234-5678-1234-567812345678"


class Kind(Enum):
    SUN = "sun"
    RAIN = "rain"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    kind: Kind
    key: UUID
    pair: tuple[int, str]


@dataclass
class Point:
    """A point."""

    x: int
    kind: Kind = Kind.SUN


class Late(BaseModel):
    """A rule that its JSON schema does not tell."""

    year: int

    @field_validator("year")
    @classmethod
    def _is_late(cls, year: int) -> int:
        if year < 2000:
            raise ValueError("too early")
        return year


class Whole(BaseModel):
    """What half an object of it breaks in its own way."""

    a: str
    b: str

    @model_validator(mode="before")
    @classmethod
    def _join(cls, values: dict[str, str]) -> dict[str, str]:
        return {"a": values["a"], "b": values["b"]}


class Some(TypedDict):
    """A report."""

    a: int
    b: NotRequired[str]


class Few(TypedDict, total=False):
    a: Required[int]
    b: str
    c: Annotated[NotRequired[str], None, "What c is."]


class Outer(TypedDict):
    inner: list[Some]
    other: "Few | None"


class Place(NamedTuple):
    x: int


class Bare:
    a: int


class WithInit:
    def __init__(self, a: int) -> None:
        self.a = a


def chat(text: str, method: str, name: str, **fields: Any) -> ChatSDA:
    """A model that answers JSON, as text or as arguments of a call."""
    if method == "function_calling":
        text = call_text(name, json.loads(text))
    return ChatSDA(engine=ScriptedEngine(text), **fields)


async def values_of(route: str, model: Any) -> list[Any]:
    """All values by one of four routes."""
    match route:
        case "invoke":
            return [model.invoke("Hi")]
        case "ainvoke":
            return [await model.ainvoke("Hi")]
        case "stream":
            return list(model.stream("Hi"))
    return [value async for value in model.astream("Hi")]


STRICT_TEXT = f'{{"day": "2026-01-02", "kind": "sun", "key": "{UUID_TEXT}", "pair": [1, "a"]}}'
STRICT = Strict(day=date(2026, 1, 2), kind=Kind.SUN, key=UUID(UUID_TEXT), pair=(1, "a"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (Strict, STRICT_TEXT, STRICT),
        (Point, '{"x": 1, "kind": "rain"}', Point(1, Kind.RAIN)),
        (Some, '{"a": 1}', {"a": 1}),
        (Some, '{"a": 1, "b": "x"}', {"a": 1, "b": "x"}),
        (Few, '{"a": 1}', {"a": 1}),
        (Few, '{"a": 1, "c": "x"}', {"a": 1, "c": "x"}),
        (Outer, '{"inner": [{"a": 1}], "other": {"a": 2}}', {"inner": [{"a": 1}], "other": {"a": 2}}),
        (Whole, '{"a": "x", "b": "y"}', Whole(a="x", b="y")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_an_answer_becomes_an_object_of_its_type(schema, text, expected, method) -> None:
    model = chat(text, method, schema.__name__).with_structured_output(schema, method=method)
    for route in ("invoke", "astream"):  # what is read whole, and what is read while it grows
        assert (await values_of(route, model))[-1] == expected


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (Kind, '"sun"', Kind.SUN),
        (list[Point], '[{"x": 1}, {"x": 2}]', [Point(1), Point(2)]),
        (Literal["a", "b"], '"b"', "b"),
        (int, "3", 3),
        (Place, "[7]", Place(7)),
    ],
    ids=str,
)
async def test_a_type_that_is_no_object_is_read_from_text_and_cannot_be_a_call(schema, text, expected) -> None:
    model = chat(text, "json_schema", "")
    for route in ROUTES:
        assert (await values_of(route, model.with_structured_output(schema)))[-1] == expected
    with pytest.raises(ConfigError, match='method="json_schema"'):
        model.with_structured_output(schema, method="function_calling")
    with pytest.raises(ConfigError, match="the arguments of a call are an object"):
        model.bind_tools([schema])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Bare, WithInit, list[Bare], type("Odd", (), {"__init__": print})], ids=str)
def test_a_class_that_pydantic_does_not_know_is_refused_with_what_to_give(schema, method) -> None:
    model = chat("{}", method, "Bare")
    with pytest.raises(ConfigError, match="Give a pydantic model, a dataclass, a TypedDict, an Enum or a JSON schema"):
        model.with_structured_output(schema, method=method)
    with pytest.raises(ConfigError, match="Give a pydantic model"):
        model.bind_tools([schema])


def test_keys_that_may_be_missing_are_not_required_at_any_depth() -> None:
    assert to_json_schema(Some)["required"] == ["a"]
    assert to_json_schema(Some)["description"] == "A report."
    few = to_json_schema(Few)
    assert few["required"] == ["a"]
    assert few["properties"]["c"]["description"] == "What c is."
    outer = to_json_schema(Outer)
    assert outer["required"] == ["inner", "other"]
    assert outer["properties"]["inner"]["items"]["required"] == ["a"]


@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_that_breaks_a_rule_of_its_class_is_a_parsing_error_by_every_route(method) -> None:
    model = chat('{"year": 1999}', method, "Late")
    for route in ROUTES:
        with pytest.raises(OutputParserException, match="too early") as refused:
            await values_of(route, model.with_structured_output(Late, method=method))
        assert isinstance(refused.value.__cause__, ValidationError)
    raw = model.with_structured_output(Late, method=method, include_raw=True)
    assert raw.invoke("Hi")["parsed"] is None


@pytest.mark.parametrize("schema", [Late, {"type": "object"}, Some])
def test_an_integer_that_python_does_not_read_is_a_parsing_error(schema) -> None:
    with pytest.raises(OutputParserException, match="cannot be read"):
        text_parser(schema).invoke(AIMessage(f'{{"year": {"1" * 5000}}}'))
    call = {"name": "Late", "args": '{"year": 1', "id": "1", "error": "Exceeds the limit"}
    with pytest.raises(OutputParserException, match="Exceeds the limit"):
        call_parser(schema, "Late").invoke(AIMessage("", invalid_tool_calls=[call]))


# --- answers that are not whole


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reason", ["length", "content_filter", "cancelled"])
async def test_every_reason_to_end_but_stop_and_calls_is_an_error_that_keeps_the_text(
    reason, method, route, make_engine, played, make_call
) -> None:
    text = '{"year": 2001}'
    answer = make_call("Late", year=2001) if method == "function_calling" else replace(played, text=text, logprobs=None)
    engine = make_engine(completion=replace(answer, finish_reason=reason))
    model = ChatSDA(engine=engine).with_structured_output(Late, method=method)
    with pytest.raises(IncompleteOutputError, match="before the JSON was whole") as refused:
        await values_of(route, model)
    assert isinstance(refused.value, OutputParserException)
    assert refused.value.partial == ("" if method == "function_calling" else text)


NOTE = {"title": "Note", "type": "object", "properties": {"a": {"type": "string"}}}
STOPPED = {"Whole": (Whole, '{"a": "x. y.", "b": ""}'), "Some": (Some, '{"a": 1, "b": "x. y."}')}
STOPPED["Note"] = (NOTE, '{"a": "x. y."}')  # type: ignore[assignment]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "where"), [("Whole", "field"), ("Whole", "bind"), ("Whole", "call"), ("Some", "field"), ("Note", "field")]
)
async def test_a_stop_string_does_not_cut_an_object(name, where, method) -> None:
    (schema, text), stop = STOPPED[name], {"stop": [" y", ".", '"}']}
    model: Any = chat(text, method, name, **(stop if where == "field" else {}))
    model = model.bind(**stop) if where == "bind" else model
    model = model.with_structured_output(schema, method=method, **(stop if where == "call" else {}))
    for route in ("invoke", "astream"):
        value = (await values_of(route, model))[-1]
        assert "x. y." in (value.model_dump() if name == "Whole" else value).values()


# --- tools


def test_a_reference_that_leads_nowhere_is_an_error_that_names_it() -> None:
    lost = {"type": "object", "properties": {"p": {"$ref": "#/$defs/Person"}}}
    tool = StructuredTool(name="find", description="Find one.", args_schema=lost, func=print)
    model = chat("ok", "json_schema", "")
    with pytest.raises(ConfigError, match=r"#/\$defs/Person"):
        model.bind_tools([tool])
    with pytest.raises(ConfigError, match=r"#/\$defs/Person"):
        model.get_num_tokens_from_messages([AIMessage("Hi")], tools=[tool])
    with pytest.raises(SDAError, match="defs/Person"):
        model.bind_tools([{"name": "find", "description": "", "parameters": lost}]).invoke("Hi")


def test_a_dataclass_can_be_a_tool() -> None:
    model = chat('{"x": 1}', "function_calling", "Point").bind_tools([Point], tool_choice="any")
    assert model.invoke("Hi").tool_calls[0]["args"] == {"x": 1}
