"""Structured output: by every method and kind of schema, whole or refused."""

import copy
from enum import Enum
from typing import Any, Literal, TypedDict

import jsonschema
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, Field

from sda_engine import Constraint
from sda_engine.errors import ConfigError, ConstraintError
from sda_integrations.langchain import ChatSDA

METHODS = ["json_schema", "function_calling", "json_mode"]


class Kind(Enum):
    SUN = "sun"
    RAIN = "rain"


class Sky(BaseModel):
    kind: Kind
    warm: bool | None = None


class Report(BaseModel):
    """A report of the weather."""

    sky: Sky
    certain: bool
    hours: list[Literal["am", "pm"]] = Field(max_length=2)


class ReportDict(TypedDict):
    """A report of the weather."""

    certain: bool
    sky: Literal["sun", "rain"]


UNTITLED: dict[str, Any] = {
    "type": "object",
    "properties": {"certain": {"type": "boolean"}, "sky": {"$ref": "#/$defs/sky"}},
    "required": ["certain", "sky"],
    "$defs": {"sky": {"enum": ["sun", "rain"]}},
}
TITLED = {"title": "report", "description": "A report of the weather.", **UNTITLED}
SCHEMAS: dict[str, Any] = {"pydantic": Report, "typed dict": ReportDict, "titled": TITLED, "untitled": UNTITLED}
CASES = [(schema, method) for schema in SCHEMAS for method in METHODS]
CASES.remove(("untitled", "function_calling"))  # a function needs a name


def check(parsed: object, schema: str) -> None:
    if schema == "pydantic":
        assert isinstance(parsed, Report)
        assert isinstance(parsed.sky.kind, Kind)
    else:
        jsonschema.validate(parsed, {**UNTITLED, "additionalProperties": False})


@pytest.fixture
def chat(tiny) -> ChatSDA:
    return ChatSDA(engine=tiny, alignment="honesty", temperature=0, max_tokens=250)


@pytest.mark.parametrize("route", ["invoke", "ainvoke"])
@pytest.mark.parametrize(("schema", "method"), CASES)
async def test_an_answer_fits_the_schema_by_every_method(schema, method, route, chat, ask) -> None:
    before = copy.deepcopy(SCHEMAS[schema])
    model = chat.with_structured_output(SCHEMAS[schema], method=method, strict=True)
    check(await ask(route, model), schema)
    assert schema == "pydantic" or before == SCHEMAS[schema]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("schema", "method"), CASES)
async def test_a_stream_ends_with_what_invoke_gives(schema, method, is_async, chat) -> None:
    model = chat.with_structured_output(SCHEMAS[schema], method=method)
    steps = [step async for step in model.astream("Hi")] if is_async else list(model.stream("Hi"))
    assert steps[-1] == model.invoke("Hi")
    if schema != "pydantic":
        assert len(steps) > 1


@pytest.mark.parametrize("route", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize(("schema", "method"), CASES)
async def test_include_raw_keeps_the_message(schema, method, route, chat, ask) -> None:
    model = chat.with_structured_output(SCHEMAS[schema], method=method, include_raw=True)
    answer = await ask(route, model)
    check(answer["parsed"], schema)
    assert answer["parsing_error"] is None
    assert answer["raw"].usage_metadata["output_tokens"] > 0
    assert bool(answer["raw"].tool_calls) == (method == "function_calling")


@pytest.mark.parametrize("route", ["invoke", "ainvoke"])
@pytest.mark.parametrize(("schema", "method"), CASES)
@pytest.mark.parametrize("max_tokens", [5, 14])
async def test_an_answer_that_is_cut_off_is_a_parsing_error(max_tokens, schema, method, route, chat, ask) -> None:
    keywords = {"method": method, "max_tokens": max_tokens}
    with pytest.raises(OutputParserException, match="Raise max_tokens"):
        await ask(route, chat.with_structured_output(SCHEMAS[schema], **keywords))
    answer = await ask(route, chat.with_structured_output(SCHEMAS[schema], include_raw=True, **keywords))
    assert answer["parsed"] is None
    assert isinstance(answer["parsing_error"], OutputParserException)
    assert answer["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", ["pydantic", "titled"])
def test_a_stream_that_is_cut_off_does_not_end_as_if_it_were_whole(schema, method, chat) -> None:
    model = chat.with_structured_output(SCHEMAS[schema], method=method, max_tokens=14)
    with pytest.raises(OutputParserException, match="Raise max_tokens"):
        list(model.stream("Hi"))


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_the_prompt_tells_of_the_schema_by_json_schema_alone(method, engine, played) -> None:
    runnable = ChatSDA(engine=engine).with_structured_output(TITLED, method=method, include_raw=True)
    assert runnable.invoke("Hi")["raw"].text == played.text
    output = engine.calls[0].output
    assert output.constraint == Constraint.json_schema(TITLED)
    assert (output.schema_prompt is not None) == (method == "json_schema")
    assert output.tools == ()


def test_function_calling_asks_for_a_call_of_the_schema(engine) -> None:
    ChatSDA(engine=engine).with_structured_output(Report, method="function_calling", include_raw=True).invoke("Hi")
    output = engine.calls[0].output
    assert [tool.name for tool in output.tools] == ["Report"]
    assert output.must_call
    assert output.constraint is None


@pytest.mark.parametrize(
    ("schema", "keywords", "message"),
    [
        (Report, {"method": "xml"}, "method cannot be 'xml': it must be one of json_schema, function_calling"),
        (3, {}, "structured output cannot be an object of type int"),
        (None, {}, "structured output cannot be an object of type NoneType"),
        (3, {"method": "function_calling"}, "cannot be an object of type int"),
        (UNTITLED, {"method": "function_calling"}, "title"),
        (TITLED, {"method": "function_calling", "tool_choice": "auto"}, "tool_choice"),
    ],
)
def test_a_wrong_schema_or_method_is_refused_at_once(schema, keywords, message, engine) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatSDA(engine=engine).with_structured_output(schema, **keywords)


@pytest.mark.parametrize("method", METHODS)
def test_a_schema_that_is_too_large_is_refused_at_once(method, engine) -> None:
    schema = {"title": "x", "type": "object", "properties": {"text": {"type": "string", "minLength": 10**6}}}
    with pytest.raises(ConstraintError, match="too large"):
        ChatSDA(engine=engine).with_structured_output(schema, method=method)


def test_a_schema_that_cannot_be_enforced_is_refused_by_the_first_call(chat) -> None:
    model = chat.with_structured_output({"type": "object", "properties": {"x": {"type": "jsn"}}})
    with pytest.raises(ConstraintError, match="cannot be enforced"):
        model.invoke("Hi")


def test_an_unknown_keyword_is_refused(engine) -> None:
    with pytest.raises(ConfigError, match="no call keyword 'max_token'"):
        ChatSDA(engine=engine).with_structured_output(Report, max_token=3).invoke("Hi")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("choice", [{}, {"tool_choice": "any"}])
def test_a_schema_stands_in_for_tools_that_were_bound_before(choice, method, chat) -> None:
    check(chat.bind_tools([Sky], **choice).with_structured_output(TITLED, method=method).invoke("Hi"), "titled")


def test_tools_that_are_bound_later_stand_in_for_those_bound_before(engine) -> None:
    ChatSDA(engine=engine).bind_tools([Sky], tool_choice="any").bind_tools([Report]).invoke("Hi")
    assert [tool.name for tool in engine.calls[0].output.tools] == ["Report"]


# --- What identifies a call ---


@pytest.mark.parametrize(
    "differently",
    [
        {"schema": {**TITLED, "required": ["certain"]}},
        {"schema": Report},
        {"method": "function_calling"},
        {"method": "json_mode"},
        {"alignment": "empathy"},
        {"temperature": 0.1},
    ],
)
def test_different_schemas_methods_and_settings_do_not_share_cached_answers(differently, engine) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache())
    same: dict[str, Any] = {"schema": TITLED, "include_raw": True}
    for settings in (same, {**same, **differently}, same, {**same, **differently}):
        chat.with_structured_output(**settings).invoke("Hi")
    chat.invoke("Hi")
    assert len(engine.calls) == 3


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.seen.append(kwargs)


@pytest.mark.parametrize(("schema", "method"), [case for case in CASES if case[0] != "untitled"])
def test_traces_see_schema_and_method(schema, method, engine) -> None:
    recorder = Recorder()
    chat = ChatSDA(engine=engine, callbacks=[recorder])
    chat.with_structured_output(SCHEMAS[schema], method=method, include_raw=True).invoke("Hi")
    options, params = recorder.seen[0]["options"], recorder.seen[0]["invocation_params"]
    traced = options["ls_structured_output_format"]
    assert traced["kwargs"] == {"method": method, "strict": None}
    assert "certain" in repr(traced["schema"])
    assert "certain" in repr(params["output"])
