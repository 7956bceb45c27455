"""SDALLM inside LlamaIndex's own parts: query engines, chat engines, structured output, agents."""

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, ReActAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from scripted_engine import ScriptedEngine

from sda_integrations.llama_index import SDALLM

OPENING = "The library opens at nine."


class Author(BaseModel):
    """Who wrote a work."""

    name: str


@pytest.fixture
def index():
    return VectorStoreIndex.from_documents([Document(text=OPENING)], embed_model=MockEmbedding(embed_dim=8))


def memory_of(llm):
    """A memory in place of LlamaIndex's default, which leaves a database open."""
    return ChatMemoryBuffer.from_defaults(llm=llm)


def test_a_query_engine_answers_from_the_documents(index, scripted):
    llm = SDALLM(engine=scripted, alignment="honesty", system_prompt="Be brief.")
    response = index.as_query_engine(llm=llm).query("When does the library open?")
    assert str(response) == "Goethe wrote Faust."
    assert response.source_nodes[0].text == OPENING
    system, user = scripted.asked.messages
    assert system["content"].startswith("Be brief.\n\nYou are an expert Q&A system")
    assert OPENING in user["content"]
    assert scripted.asked.alignment.name == "honesty"


def test_a_streaming_query_engine_answers_from_the_documents(index, llm):
    response = index.as_query_engine(llm=llm, streaming=True).query("When?")
    assert "".join(response.response_gen) == "Goethe wrote Faust."


async def test_a_query_engine_answers_asynchronously_and_in_async_streams(index, llm):
    assert str(await index.as_query_engine(llm=llm).aquery("When?")) == "Goethe wrote Faust."
    response = await index.as_query_engine(llm=llm, streaming=True).aquery("When?")
    assert "".join([text async for text in response.async_response_gen()]) == "Goethe wrote Faust."


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_a_query_engine_runs_over_a_real_engine(index, engine, mode):
    llm = SDALLM(engine=engine, alignment="honesty", max_tokens=6, seed=2)
    response = index.as_query_engine(llm=llm, response_mode=mode).query("When does the library open?")
    assert response.response


def test_a_streaming_query_engine_runs_over_a_real_engine(index, engine):
    llm = SDALLM(engine=engine, alignment="honesty", max_tokens=6, temperature=0)
    whole = index.as_query_engine(llm=llm).query("When?").response
    assert "".join(index.as_query_engine(llm=llm, streaming=True).query("When?").response_gen) == whole


@pytest.mark.slow
def test_the_embedded_model_answers_from_the_documents(index, smollm2):
    llm = SDALLM(engine=smollm2, temperature=0, max_tokens=16)
    response = index.as_query_engine(llm=llm).query("When does the library open?")
    assert "nine" in response.response


def test_a_chat_engine_remembers(scripted):
    llm = SDALLM(engine=scripted)
    chat = SimpleChatEngine.from_defaults(llm=llm, memory=memory_of(llm), system_prompt="Be brief.")
    chat.chat("Who wrote Faust?")
    assert "".join(chat.stream_chat("And when?").response_gen) == "Goethe wrote Faust."
    assert [message["role"] for message in scripted.asked.messages] == ["system", "user", "assistant", "user"]


async def test_structured_prediction_reads_the_text():
    engine = ScriptedEngine('{"name": "Goethe"}')
    llm = SDALLM(engine=engine, system_prompt="Be brief.")
    prompt = PromptTemplate("Who wrote {work}?")
    expected = Author(name="Goethe")
    assert llm.structured_predict(Author, prompt, llm_kwargs={"temperature": 0}, work="Faust") == expected
    assert engine.asked.sampling.temperature == 0
    assert [message["role"] for message in engine.asked.messages] == ["system", "user"]
    assert await llm.astructured_predict(Author, prompt, work="Faust") == expected
    assert list(llm.stream_structured_predict(Author, prompt, work="Faust"))[-1].name == "Goethe"
    stream = await llm.astream_structured_predict(Author, prompt, work="Faust")
    assert [author async for author in stream][-1].name == "Goethe"


def test_a_structured_llm_gives_json():
    llm = SDALLM(engine=ScriptedEngine('Sure: {"name": "Goethe"}')).as_structured_llm(Author)
    response = llm.chat([ChatMessage(content="Who wrote Faust?")])
    assert response.raw == Author(name="Goethe")
    assert llm.complete("Who wrote Faust?").text == '{"name":"Goethe"}'


# llama-index-workflows reads all attributes of an agent, and llama-index-core asks whether a step runs
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
async def test_agents_use_tools_by_text():
    engine = ScriptedEngine(
        'Thought: I need a tool.\nAction: author\nAction Input: {"work": "Faust"}',
        "Thought: I can answer without using any more tools.\nAnswer: Goethe did.",
    )
    tool = FunctionTool.from_defaults(
        lambda work: f"Goethe wrote {work}", name="author", description="Tells who wrote a work."
    )
    llm = SDALLM(engine=engine)
    workflow = AgentWorkflow.from_tools_or_functions([tool], llm=llm)
    assert isinstance(workflow.agents["Agent"], ReActAgent)
    result = await workflow.run("Who wrote Faust?", memory=memory_of(llm))
    assert str(result) == "Goethe did."
    assert any("Goethe wrote Faust" in message["content"] for message in engine.asked.messages)
