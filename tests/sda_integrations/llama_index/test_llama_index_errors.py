"""Errors of ours reach whoever asks a query or chat engine, which takes a ValueError for an empty answer."""

import asyncio

import pytest
from llama_index.core.response_synthesizers import ResponseMode
from pydantic import BaseModel

from sda_engine.errors import ConfigError, ConstraintError, IncompleteOutputError, MessageError, SDAError
from sda_engine.testing import ScriptedEngine, tiny_engine
from sda_integrations.llama_index import SDALLM

ERRORS = [MessageError("no"), ConfigError("no"), ConstraintError("no"), IncompleteOutputError("no")]
MODES = [ResponseMode.REFINE, ResponseMode.COMPACT, ResponseMode.TREE_SUMMARIZE, ResponseMode.SIMPLE_SUMMARIZE]
CHATS = ["context", "condense_question", "condense_plus_context", "simple"]


class Person(BaseModel):
    name: str


class FailingEngine(ScriptedEngine):
    """Refuses every request with one error."""

    def __init__(self, error: SDAError) -> None:
        super().__init__("never said")
        self.error = error

    def _request(self, messages, settings):
        raise self.error


@pytest.fixture(params=ERRORS, ids=lambda error: type(error).__name__)
def failing(request) -> SDALLM:
    return SDALLM(engine=FailingEngine(request.param))


@pytest.mark.parametrize("output_cls", [None, Person])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_reaches_the_caller_of_a_query_engine(index, failing, mode, output_cls):
    engine = index.as_query_engine(llm=failing, response_mode=mode, output_cls=output_cls)
    with pytest.raises(type(failing.engine.error)):
        engine.query("Who?")
    with pytest.raises(type(failing.engine.error)):
        asyncio.run(engine.aquery("Who?"))


@pytest.mark.parametrize("mode", MODES)
def test_an_error_reaches_the_reader_of_a_query_engines_stream(index, failing, mode):
    with pytest.raises(type(failing.engine.error)):
        list(index.as_query_engine(llm=failing, response_mode=mode, streaming=True).query("Who?").response_gen)


@pytest.mark.parametrize("mode", CHATS)
def test_an_error_reaches_the_caller_of_a_chat_engine(index, failing, mode, make_memory):
    engine = index.as_chat_engine(chat_mode=mode, llm=failing, memory=make_memory(failing))
    with pytest.raises(type(failing.engine.error)):
        engine.chat("Who?")
    with pytest.raises(type(failing.engine.error)):
        asyncio.run(engine.achat("Who?"))


def test_an_object_that_was_cut_off_is_no_empty_response(index):
    with tiny_engine() as engine:
        asked = index.as_query_engine(llm=SDALLM(engine=engine, max_tokens=5), output_cls=Person)
        with pytest.raises(IncompleteOutputError, match="cut off after 5 tokens"):
            asked.query("Who?")


def test_no_error_of_ours_is_taken_for_a_models_bad_answer():
    def children(error):
        return [error, *(below for child in error.__subclasses__() for below in children(child))]

    # ChatSDA's parsers raise one that is LangChain's OutputParserException too, which LlamaIndex never meets
    ours = [error for error in children(SDAError) if not error.__module__.startswith("sda_integrations.langchain")]
    assert len(ours) > 10
    assert not any(issubclass(error, (ValueError, TypeError)) for error in ours)
