"""Structured prediction: the four methods, structured LLMs, and query engines over them."""

import json
from itertools import pairwise
from typing import Generic, TypeVar

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from pydantic import BaseModel, Field, RootModel, ValidationError, field_validator, model_validator

from sda_engine import Constraint
from sda_engine.errors import ConfigError, ConstraintError, IncompleteOutputError
from tests.sda_integrations.llama_index.asking import OBJECT_STREAMS, OPENING, STRUCTURED, read

PROMPT = PromptTemplate("Who wrote {work}?")
QUESTION = {"role": "user", "content": "Who wrote Faust?"}
Item = TypeVar("Item")
partial_json_is_deprecated = pytest.mark.filterwarnings("ignore:The `json` method is deprecated")  # StructuredLLM's


class Author(BaseModel):
    """Who wrote a work."""

    name: str
    born: int


class Work(BaseModel):
    """A work and who wrote it."""

    title: str
    authors: list[Author]


class Names(RootModel[list[str]]):
    """Several names."""


class Box(BaseModel, Generic[Item]):
    """Holds something."""

    content: Item


class Aliased(BaseModel):
    """Goes by other names in JSON."""

    full_name: str = Field(alias="fullName")
    born: int


class Dates(BaseModel):
    """Some years, and how sure they are."""

    sureness: float
    years: list[int]


class EarlyAuthor(BaseModel):
    """An author with a rule that JSON schema does not tell."""

    born: int

    @field_validator("born")
    @classmethod
    def _is_early(cls, born):
        if born > 1800:
            raise ValueError("too late")
        return born


class Renamed(BaseModel):
    """An author whose JSON is changed before it is read."""

    name: str
    born: int

    @model_validator(mode="before")
    @classmethod
    def _trim(cls, values):
        return {**values, "name": values["name"].strip(), "born": values["born"]}


GOETHE = Author(name="Goethe", born=1749)
TEXT = json.dumps(GOETHE.model_dump())


async def predict(llm, method, output_cls=Author, **keywords):
    """All objects of one of the four methods of structured prediction."""
    return await read(method, getattr(llm, method)(output_cls, PROMPT, work="Faust", **keywords))


# --- the four methods


@pytest.mark.parametrize("method", STRUCTURED)
@pytest.mark.parametrize(
    "expected",
    [
        GOETHE,
        Work(title="Faust", authors=[GOETHE, Author(name='"\\', born=-1)]),
        Names(["Goethe", "Schiller"]),
        Box[int](content=7),
        Box[Author](content=GOETHE),
        Aliased(fullName="Johann", born=1749),
    ],
    ids=lambda expected: type(expected).__name__,
)
async def test_every_method_gives_an_object_of_its_class(scripted_llm, method, expected):
    text = json.dumps(expected.model_dump(by_alias=True))
    objects = await predict(scripted_llm(text), method, type(expected))
    assert type(objects[-1]) is type(expected)
    assert objects[-1] == expected


@pytest.mark.parametrize("method", STRUCTURED)
async def test_the_schema_reaches_the_engine_and_the_system_prompt_comes_once(scripted_llm, method):
    llm = scripted_llm(TEXT, system_prompt="Be brief.")
    await predict(llm, method)
    (request,) = llm.load().requests
    assert request.output.constraint == Constraint.json_schema(Author)
    assert request.output.tools == ()
    assert request.messages == [{"role": "system", "content": "Be brief."}, QUESTION]


@pytest.mark.parametrize("method", STRUCTURED)
async def test_keywords_of_the_call_are_honoured(scripted_llm, method):
    llm = scripted_llm(TEXT, alignment="empathy", amplification=0.5)
    given = {"alignment": "honesty", "max_tokens": 300, "temperature": 0, "schema_in_prompt": False}
    kept = dict(given)
    await predict(llm, method, llm_kwargs=given)
    await predict(llm, method, llm_kwargs={"alignment": None})
    first, second = llm.load().requests
    assert (first.alignment.name, first.sampling.max_new_tokens, first.sampling.temperature) == ("honesty", 300, 0)
    assert not first.output.schema_in_prompt
    assert second.alignment is None
    assert given == kept


@pytest.mark.parametrize("method", STRUCTURED)
async def test_keywords_that_programs_drop_do_no_harm_and_wrong_ones_are_refused(scripted_llm, method):
    dropped = {"tool_required": True, "tool_choice": "auto", "allow_parallel_tool_calls": True}
    assert (await predict(scripted_llm(TEXT), method, llm_kwargs=dropped))[-1] == GOETHE
    llm = scripted_llm(TEXT)
    with pytest.raises(ConfigError, match="temperaturee"):
        await predict(llm, method, llm_kwargs={"temperaturee": 1})
    assert not llm.load().requests


@pytest.mark.parametrize("method", STRUCTURED)
async def test_a_chat_prompt_keeps_its_turns(scripted_llm, method):
    llm = scripted_llm(TEXT)
    prompt = ChatPromptTemplate([ChatMessage(role="system", content="Be brief."), ChatMessage(content="Who? {work}")])
    await read(method, getattr(llm, method)(Author, prompt, work="Faust"))
    assert llm.load().requests[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who? Faust"},
    ]


@pytest.mark.parametrize("method", STRUCTURED)
async def test_an_answer_that_is_no_object_of_the_class_cannot_be_written(scripted_llm, method):
    with pytest.raises(ConstraintError, match="does not fit"):
        await predict(scripted_llm("Goethe wrote it."), method)


@pytest.mark.parametrize("method", STRUCTURED)
async def test_an_object_that_is_cut_off_is_an_error(scripted_llm, method):
    with pytest.raises(IncompleteOutputError, match="cut off after 12 tokens, before the Author was whole"):
        await predict(scripted_llm(TEXT), method, llm_kwargs={"max_tokens": 12})


async def read_until(error, method, stream):
    """What a stream of objects gives before an error ends it."""
    seen = []
    try:
        if method.startswith("a"):
            async for each in await stream:
                seen.append(each)
        else:
            for each in stream:
                seen.append(each)
    except error:
        return seen
    raise AssertionError("no error")


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_stream_that_is_cut_off_gives_what_there_is_before_its_error(scripted_llm, method):
    stream = getattr(scripted_llm(TEXT), method)(Author, PROMPT, {"max_tokens": 16}, work="Faust")
    seen = await read_until(IncompleteOutputError, method, stream)
    assert "Goethe".startswith(seen[-1].name)
    assert len({each.name for each in seen}) > 2
    assert seen[-1].born is None


@pytest.mark.parametrize("method", STRUCTURED)
async def test_a_rule_that_the_schema_does_not_tell_is_checked_at_the_end(scripted_llm, method):
    assert (await predict(scripted_llm('{"born": 1749}'), method, EarlyAuthor))[-1] == EarlyAuthor(born=1749)
    with pytest.raises(ValidationError, match="too late"):
        await predict(scripted_llm('{"born": 1900}'), method, EarlyAuthor)


# --- objects that grow


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_objects_grow_with_all_fields_optional_until_they_are_whole(scripted_llm, method):
    *partial, last = await predict(scripted_llm(TEXT), method)
    assert (type(last), last) == (Author, GOETHE)
    assert (partial[0].name, partial[0].born) == (None, None)
    names = [each.name for each in partial if each.name is not None]
    assert all(later.startswith(name) for name, later in pairwise(names))
    assert {each.born for each in partial} == {None, 1749}  # not 1, 17 and 174


@pytest.mark.parametrize("method", OBJECT_STREAMS)
@pytest.mark.parametrize("text", ["at 10:30 or so", "a, 2 b", "[1", "1749"])
async def test_text_in_an_object_only_ever_grows(scripted_llm, method, text):
    objects = await predict(scripted_llm(json.dumps({"name": text, "born": 1749})), method)
    names = [each.name or "" for each in objects]
    assert names[-1] == text
    assert names == sorted(names, key=len)
    assert all(text.startswith(name) for name in names)


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_list_of_numbers_only_ever_grows_and_by_whole_numbers(scripted_llm, method):
    objects = await predict(scripted_llm('{"sureness": -1.5e-3, "years": [1749, -30]}'), method, Dates)
    assert {each.sureness for each in objects} == {None, -1.5e-3}
    lists = [each.years for each in objects if each.sureness is not None]
    lists = lists[next(place for place, years in enumerate(lists) if years is not None) :]
    assert lists[-1] == [1749, -30]
    assert None not in lists
    assert all(later[: len(years)] == years for years, later in pairwise(lists))


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_nested_objects_grow_inside_theirs(scripted_llm, method):
    work = Work(title="Faust", authors=[GOETHE, GOETHE])
    *partial, last = await predict(scripted_llm(json.dumps(work.model_dump())), method, Work)
    assert last == work
    counts = [len(each.authors) for each in partial if each.authors is not None]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_root_model_grows(scripted_llm, method):
    objects = await predict(scripted_llm('["Goethe", "Schiller"]'), method, Names)
    assert Names(["Goethe"]) in objects
    assert objects[-1] == Names(["Goethe", "Schiller"])


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_an_aliased_field_grows_under_its_name(scripted_llm, method):
    *partial, last = await predict(scripted_llm('{"fullName": "Johann", "born": 1749}'), method, Aliased)
    assert last == Aliased(fullName="Johann", born=1749)
    assert len({each.full_name for each in partial}) > 2


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_rule_that_cannot_read_half_an_object_does_not_end_the_stream(scripted_llm, method):
    objects = await predict(scripted_llm(TEXT), method, Renamed)
    assert objects[-1] == Renamed(name="Goethe", born=1749)


# --- structured LLMs


@partial_json_is_deprecated
@pytest.mark.parametrize("method", ["chat", "achat", "stream_chat", "astream_chat", "complete", "acomplete"])
async def test_a_structured_llm_gives_the_object_and_its_json(scripted_llm, method):
    llm = scripted_llm(TEXT, alignment="honesty", amplification=0.5)
    structured = llm.as_structured_llm(Author)
    given = [ChatMessage(content="Who wrote Faust?")] if "chat" in method else "Who wrote Faust?"
    last = (await read(method, getattr(structured, method)(given, temperature=0)))[-1]
    text = last.message.content if "chat" in method else last.text
    assert (last.raw, json.loads(text)) == (GOETHE, GOETHE.model_dump())
    (request,) = llm.load().requests
    assert request.alignment.name == "honesty"
    assert request.sampling.temperature == 0
    assert request.output.constraint == Constraint.json_schema(Author)


@partial_json_is_deprecated
@pytest.mark.parametrize("method", ["stream_chat", "astream_chat"])
async def test_a_structured_llm_streams_objects_that_grow(scripted_llm, method):
    structured = scripted_llm(TEXT).as_structured_llm(Author)
    responses = await read(method, getattr(structured, method)([ChatMessage(content="Who wrote Faust?")]))
    names = [response.raw.name or "" for response in responses]
    assert len(set(names)) > 3
    assert names == sorted(names, key=len)


def test_a_query_engine_gives_an_object_over_a_structured_llm(index, scripted_llm):
    llm = scripted_llm(TEXT)
    response = index.as_query_engine(llm=llm.as_structured_llm(Author)).query("Who?")
    assert response.response == GOETHE
    assert OPENING in llm.load().requests[-1].messages[-1]["content"]


async def test_a_query_engine_gives_an_object_asynchronously(index, scripted_llm):
    response = await index.as_query_engine(llm=scripted_llm(TEXT).as_structured_llm(Author)).aquery("Who?")
    assert response.response == GOETHE


def test_a_query_engine_gives_an_object_of_its_output_class(index, scripted_llm):
    engine = index.as_query_engine(llm=scripted_llm(TEXT), output_cls=Author, response_mode="compact")
    assert engine.query("Who?").response == GOETHE
