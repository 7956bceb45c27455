"""LlamaIndex's programs for objects, and the response synthesizers that are built on them."""

import json

import pytest
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from sda_engine.errors import ConstraintError, IncompleteOutputError
from sda_engine.testing import call_text
from tests.sda_integrations.llama_index.asking import OPENING, STRUCTURED, read

PROGRAM_CALLS = ("__call__", "acall", "stream_call", "astream_call")
PROMPT = PromptTemplate("Who wrote {work}?")
QUESTION = {"role": "user", "content": "Who wrote Faust?"}


class Author(BaseModel):
    """Who wrote a work."""

    name: str
    born: int


GOETHE = Author(name="Goethe", born=1749)
TEXT = json.dumps(GOETHE.model_dump())
CALL = call_text("Author", GOETHE.model_dump())


@pytest.mark.parametrize("method", STRUCTURED)
async def test_the_program_mode_llm_is_left_to_the_text_program(scripted_llm, method):
    llm = scripted_llm(TEXT, pydantic_program_mode=PydanticProgramMode.LLM)
    prompt = PromptTemplate("Who wrote {work}?")  # LlamaIndex's program changes it
    objects = await read(method, getattr(llm, method)(Author, prompt, work="Faust"))
    assert objects[-1] == GOETHE
    (request,) = llm.load().requests
    assert request.output.constraint is None
    assert "JSON schema" in request.messages[-1]["content"]


@pytest.mark.parametrize("method", STRUCTURED)
async def test_the_program_mode_function_is_left_to_a_forced_call(scripted_llm, method):
    llm = scripted_llm(CALL, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    objects = await read(method, getattr(llm, method)(Author, PROMPT, work="Faust"))
    assert objects[-1] == GOETHE
    (request,) = llm.load().requests
    assert request.output.must_call
    assert [tool.name for tool in request.output.tools] == ["Author"]


@pytest.mark.parametrize("call", PROGRAM_CALLS)
async def test_a_function_calling_program_forces_its_call(scripted_llm, call):
    llm = scripted_llm(CALL, system_prompt="Be brief.")
    program = FunctionCallingProgram.from_defaults(Author, prompt=PROMPT, llm=llm)
    objects = await read(call, getattr(program, call)(work="Faust", llm_kwargs={"temperature": 0}))
    assert objects[-1] == GOETHE
    (request,) = llm.load().requests
    assert request.output.must_call
    assert not request.output.parallel_tool_calls
    assert request.sampling.temperature == 0
    assert request.messages == [{"role": "system", "content": "Be brief."}, QUESTION]


@pytest.mark.parametrize("call", PROGRAM_CALLS)
async def test_a_function_calling_program_cannot_get_text_in_place_of_its_call(scripted_llm, call):
    program = FunctionCallingProgram.from_defaults(Author, prompt=PROMPT, llm=scripted_llm("Goethe wrote it."))
    with pytest.raises(ConstraintError, match="does not fit"):
        await read(call, getattr(program, call)(work="Faust"))


@pytest.mark.parametrize("call", ["stream_call", "astream_call"])
async def test_a_function_calling_program_streams_objects_that_grow(scripted_llm, call):
    program = FunctionCallingProgram.from_defaults(Author, prompt=PROMPT, llm=scripted_llm(CALL))
    *partial, last = await read(call, getattr(program, call)(work="Faust"))
    assert last == GOETHE
    names = [each.name for each in partial if getattr(each, "name", None)]
    assert len(set(names)) > 2
    assert all("Goethe".startswith(name) for name in names)
    assert {each.born for each in partial} <= {None, 1749}


@pytest.mark.parametrize("call", PROGRAM_CALLS)
async def test_a_function_calling_program_gives_several_objects_where_it_may(scripted_llm, call):
    llm = scripted_llm(f"{CALL}\n{CALL}")
    program = FunctionCallingProgram.from_defaults(Author, prompt=PROMPT, llm=llm, allow_parallel_tool_calls=True)
    objects = await read(call, getattr(program, call)(work="Faust"))
    assert objects[-1] == [GOETHE, GOETHE]


@pytest.mark.parametrize("call", ["__call__", "acall"])
async def test_a_function_calling_program_is_told_of_a_call_that_is_cut_off(scripted_llm, call):
    program = FunctionCallingProgram.from_defaults(Author, prompt=PROMPT, llm=scripted_llm(CALL))
    with pytest.raises(IncompleteOutputError):
        await read(call, getattr(program, call)(work="Faust", llm_kwargs={"max_tokens": 30}))


@pytest.mark.parametrize("call", PROGRAM_CALLS)
async def test_the_default_program_of_llama_index_calls_functions(scripted_llm, call):
    program = get_program_for_llm(Author, PROMPT, scripted_llm(CALL))
    assert isinstance(program, FunctionCallingProgram)
    assert (await read(call, getattr(program, call)(work="Faust")))[-1] == GOETHE


@pytest.mark.parametrize("call", PROGRAM_CALLS)
async def test_a_text_program_reads_the_text(scripted_llm, call):
    prompt = PromptTemplate("Who wrote {work}?")
    program = LLMTextCompletionProgram.from_defaults(output_cls=Author, prompt=prompt, llm=scripted_llm(TEXT))
    assert (await read(call, getattr(program, call)(work="Faust")))[-1] == GOETHE


# --- response synthesizers that let the model say whether it knows the answer

NODES = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in (OPENING, "It closes at six.")]
SATISFIED = call_text("StructuredRefineResponse", {"query_satisfied": True, "answer": "At nine."})
UNSATISFIED = call_text("StructuredRefineResponse", {"query_satisfied": False, "answer": "It is not said."})


@pytest.fixture
def synthesizer():
    def make(llm, **keywords):
        return get_response_synthesizer(
            llm=llm, response_mode=ResponseMode.REFINE, structured_answer_filtering=True, **keywords
        )

    return make


async def test_a_synthesizer_keeps_the_answer_that_satisfies(scripted_llm, synthesizer):
    assert str(synthesizer(scripted_llm(UNSATISFIED, SATISFIED)).synthesize("When?", NODES)) == "At nine."
    response = await synthesizer(scripted_llm(UNSATISFIED, SATISFIED)).asynthesize("When?", NODES)
    assert str(response) == "At nine."


async def test_a_synthesizer_without_an_answer_that_satisfies_says_so(scripted_llm, synthesizer):
    assert str(synthesizer(scripted_llm(UNSATISFIED)).synthesize("When?", NODES)) == "Empty Response"
    assert str(await synthesizer(scripted_llm(UNSATISFIED)).asynthesize("When?", NODES)) == "Empty Response"


async def test_a_streaming_synthesizer_keeps_the_answer_that_satisfies(scripted_llm, synthesizer):
    llm = scripted_llm(UNSATISFIED, SATISFIED)
    response = synthesizer(llm, streaming=True).synthesize("When?", NODES)
    assert "".join(response.response_gen) == "At nine."
    assert all(request.output.must_call for request in llm.load().requests)
    llm = scripted_llm(UNSATISFIED, SATISFIED)
    response = await synthesizer(llm, streaming=True).asynthesize("When?", NODES)
    assert "".join([text async for text in response.async_response_gen()]) == "At nine."
    assert all(request.output.must_call for request in llm.load().requests)
