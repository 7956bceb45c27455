"""Output classes: strict ones, those that are not pydantic's, and objects that stop strings would cut."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import TypedDict
from uuid import UUID

import pytest
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ConfigDict, RootModel

from sda_engine.errors import ConfigError, EngineClosedError, IncompleteOutputError, MessageError, SDAError
from sda_engine.testing import ScriptedEngine, tiny_engine
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.llama_index.asking import CHATTING, STRUCTURED, ask, read

PROMPT = PromptTemplate("When?")


class Kind(Enum):
    SUN = "sun"


class Note(BaseModel):
    text: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    key: UUID
    pair: tuple[int, str]
    kind: Kind
    last: str


@dataclass
class Point:
    x: int


class Keys(TypedDict):
    x: int


class Bare:
    x: int


async def predict(llm, method, output_cls, **keywords):
    """All objects of one of the four methods."""
    return await read(method, getattr(llm, method)(output_cls, PROMPT, **keywords))


@pytest.mark.parametrize("method", STRUCTURED)
async def test_a_stop_string_does_not_cut_an_object(scripted_llm, method):
    note = Note(text="one. two.")
    for fields, keywords in [({"stop": "."}, {}), ({}, {"llm_kwargs": {"stop": [". ", '"}']}})]:
        llm = scripted_llm(json.dumps(note.model_dump()), **fields)
        assert (await predict(llm, method, Note, **keywords))[-1] == note


@pytest.mark.parametrize("method", CHATTING)
async def test_nor_the_json_of_a_response_format(scripted_llm, method):
    text = '{"text": "one. two."}'
    for response_format in (Note, Note.model_json_schema(), {"type": "json_object"}):
        (*_, last) = await ask(scripted_llm(text, stop="."), method, response_format=response_format)
        assert last.message.content == text


@pytest.mark.parametrize("method", STRUCTURED)
async def test_a_strict_class_is_read_from_json(scripted_llm, method):
    value = Strict(day=date(2026, 1, 2), key=UUID(int=7), pair=(1, "a"), kind=Kind.SUN, last="abc def")
    objects = await predict(scripted_llm(json.dumps(value.model_dump(mode="json"))), method, Strict)
    assert objects[-1] == value
    if "stream" in method:
        assert any(isinstance(each, Strict) and each.last != value.last for each in objects), "also while it grows"


@pytest.mark.parametrize("method", STRUCTURED)
@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM])
@pytest.mark.parametrize(
    "output_cls", [Point, Keys, Bare, Kind, int, list[int], {"type": "object"}, None, Note(text="")]
)
async def test_a_class_that_is_not_pydantics_is_refused_with_what_to_give(llm, output_cls, mode, method):
    llm = llm.model_copy(update={"pydantic_program_mode": mode})
    with pytest.raises(ConfigError, match="must be a pydantic model"):
        await predict(llm, method, output_cls)


@pytest.mark.parametrize(("kind", "text", "root"), [(Point, '{"x": 1}', Point(1)), (Kind, '"sun"', Kind.SUN)])
def test_a_root_model_of_it_is_what_the_message_says(scripted_llm, kind, text, root):
    assert scripted_llm(text).structured_predict(RootModel[kind], PROMPT).root == root


@pytest.mark.parametrize(("kind", "text"), [(Point, '{"x": 1}'), (Kind, '"sun"'), (list[int], "[1]")])
def test_a_response_format_can_be_any_type_that_pydantic_knows(scripted_llm, kind, text):
    assert scripted_llm(text).chat([ChatMessage("Hi")], response_format=kind).message.content == text
    with pytest.raises(ConfigError, match="cannot be Bare"):
        scripted_llm(text).chat([ChatMessage("Hi")], response_format=Bare)


@pytest.mark.parametrize("method", STRUCTURED)
async def test_an_object_that_was_cut_off_is_kept_in_the_error(scripted_llm, method):
    with pytest.raises(IncompleteOutputError) as refused:
        await predict(scripted_llm('{"text": "one. two."}', max_tokens=8), method, Note)
    assert refused.value.partial
    assert '{"text": "one. two."}'.startswith(refused.value.partial)


@pytest.mark.parametrize("method", ["stream_chat", "stream_structured_predict"])
def test_an_engine_that_is_closed_meanwhile_is_an_error_that_holds_the_text(method):
    engine = tiny_engine()
    llm = SDALLM(engine=engine, max_tokens=1900, temperature=2.0, seed=1)
    asked = [ChatMessage("Hi")] if method == "stream_chat" else Note
    stream = getattr(llm, method)(asked, **({} if method == "stream_chat" else {"prompt": PROMPT}))
    next(stream)
    engine.close()
    with pytest.raises(EngineClosedError) as closed:
        list(stream)
    assert closed.value.partial


def call_of(arguments):
    return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs=arguments)])


def test_arguments_of_earlier_calls_become_json_or_an_error_by_their_place(llm):
    assert llm.chat([ChatMessage("Hi"), call_of({"when": datetime(2026, 1, 2)})]).message.content
    assert llm.chat([ChatMessage("Hi"), call_of(f'{{"n": {"1" * 5000}}}')]).message.content
    for value in (object(), 10**5000):
        with pytest.raises(MessageError, match=r"messages\[1\].tool_calls\[0\].function.arguments\['when'\]"):
            llm.chat([ChatMessage("Hi"), call_of({"when": value})])


def test_a_reference_that_leads_nowhere_is_an_error_that_names_it(llm):
    class Lost(BaseModel):
        @classmethod
        def model_json_schema(cls, *args, **keywords):
            return {"type": "object", "properties": {"p": {"$ref": "#/$defs/Person"}}}

    tool = FunctionTool(fn=print, metadata=ToolMetadata(name="f", description="d", fn_schema=Lost))
    with pytest.raises(SDAError, match="defs/Person"):
        llm.chat_with_tools([tool], user_msg="Hi")


def test_a_closed_engine_scripted_or_not_refuses_what_comes():
    engine = ScriptedEngine("ok")
    engine.close()
    with pytest.raises(EngineClosedError):
        SDALLM(engine=engine).chat([ChatMessage("Hi")])
