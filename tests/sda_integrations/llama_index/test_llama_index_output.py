"""The form of an answer, asked for by the keywords of a call: response_format, constraint, schema_in_prompt."""

import json

import pytest
from pydantic import BaseModel

from sda_engine import Constraint
from sda_engine.errors import ConfigError, ConstraintError
from tests.sda_integrations.llama_index.asking import METHODS, STREAMING, ask, text_of


class Author(BaseModel):
    """Who wrote a work."""

    name: str


SCHEMA = Author.model_json_schema()
ANSWER = '{"name": "Goethe"}'
FORMATS = {
    "model": Author,
    "schema": SCHEMA,
    "OpenAI": {"type": "json_schema", "json_schema": {"name": "author", "schema": SCHEMA}},
    "constraint": Constraint.json_schema(SCHEMA),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FORMATS)
async def test_every_method_takes_every_kind_of_response_format(scripted_llm, method, kind):
    llm = scripted_llm(ANSWER)
    assert text_of((await ask(llm, method, response_format=FORMATS[kind]))[-1]) == ANSWER
    (request,) = llm.load().requests
    assert request.output.constraint == Constraint.json_schema(Author)
    assert request.output.schema_in_prompt


@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_of_another_form_is_refused(scripted_llm, method):
    with pytest.raises(ConstraintError, match="does not fit"):
        await ask(scripted_llm("Goethe"), method, response_format=Author)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_takes_a_constraint(scripted_llm, method):
    llm = scripted_llm("yes")
    last = (await ask(llm, method, constraint=Constraint.regex("yes|no")))[-1]
    assert (text_of(last), last.raw["finish_reason"]) == ("yes", "stop")
    assert llm.load().requests[0].output.constraint == Constraint.regex("yes|no")
    with pytest.raises(ConstraintError, match="does not fit"):
        await ask(scripted_llm("perhaps"), method, constraint=Constraint.regex("yes|no"))


@pytest.mark.parametrize("method", METHODS)
async def test_the_schema_stays_out_of_the_prompt_where_that_is_asked_for(scripted_llm, method):
    llm = scripted_llm(ANSWER)
    told = (await ask(llm, method, response_format=Author))[-1].raw["usage"]["prompt_tokens"]
    untold = (await ask(llm, method, response_format=Author, schema_in_prompt=False))[-1].raw["usage"]["prompt_tokens"]
    plain = (await ask(llm, method))[-1].raw["usage"]["prompt_tokens"]
    assert untold == plain < told
    assert [request.output.schema_in_prompt for request in llm.load().requests] == [True, False, True]


@pytest.mark.parametrize("method", METHODS)
async def test_text_and_none_ask_for_free_text_and_json_object_for_any_object(scripted_llm, method):
    llm = scripted_llm('{"a": 1}')
    for response_format in ({"type": "text"}, None, {"type": "json_object"}):
        assert text_of((await ask(llm, method, response_format=response_format))[-1]) == '{"a": 1}'
    constraints = [request.output.constraint for request in llm.load().requests]
    assert constraints == [None, None, Constraint.json_schema({"type": "object"})]


@pytest.mark.parametrize("method", METHODS)
async def test_two_forms_at_once_are_refused(llm, method):
    with pytest.raises(ConfigError, match="give one of the two"):
        await ask(llm, method, response_format=Author, constraint=Constraint.regex("a"))


@pytest.mark.parametrize("method", STREAMING)
async def test_streams_show_the_json_as_it_grows(scripted_llm, method):
    responses = await ask(scripted_llm(ANSWER), method, response_format=Author)
    assert "".join(response.delta for response in responses) == ANSWER
    assert json.loads(text_of(responses[-1])) == {"name": "Goethe"}


async def test_an_answer_may_be_a_call_or_fit_the_format(scripted_llm):
    llm = scripted_llm(ANSWER)
    response = (await ask(llm, "chat", response_format=Author, tools=[Author]))[0]
    assert response.message.content == ANSWER
    with pytest.raises(ConstraintError, match="does not fit"):
        await ask(scripted_llm("Goethe"), "chat", response_format=Author, tools=[Author])
