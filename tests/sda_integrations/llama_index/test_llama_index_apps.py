"""SDALLM inside LlamaIndex's own parts: query engines, chat engines, agents."""

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from sda_engine.errors import IncompleteOutputError
from sda_engine.testing import call_text
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.llama_index.asking import OPENING

# llama-index-workflows reads all attributes of an agent, and llama-index-core asks whether a step runs
of_agents = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


class Author(BaseModel):
    """Who wrote a work."""

    name: str


class Library:
    """A tool that remembers how it was called."""

    def __init__(self):
        self.asked = []

    def author(self, work: str) -> str:
        """Tells who wrote a work."""
        self.asked.append(work)
        return f"Goethe wrote {work}"

    def tools(self):
        return [FunctionTool.from_defaults(self.author)]


@pytest.fixture
def library():
    return Library()


def test_a_query_engine_answers_from_the_documents(index, scripted):
    llm = SDALLM(engine=scripted, alignment="honesty", system_prompt="Be brief.")
    response = index.as_query_engine(llm=llm).query("When does the library open?")
    assert str(response) == "Goethe wrote Faust."
    assert response.source_nodes[0].text == OPENING
    system, user = scripted.requests[-1].messages
    assert system["content"].startswith("Be brief.\n\nYou are an expert Q&A system")
    assert OPENING in user["content"]
    assert scripted.requests[-1].alignment.name == "honesty"


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


def test_a_chat_engine_remembers(scripted, make_memory):
    llm = SDALLM(engine=scripted)
    chat = SimpleChatEngine.from_defaults(llm=llm, memory=make_memory(llm), system_prompt="Be brief.")
    chat.chat("Who wrote Faust?")
    assert "".join(chat.stream_chat("And when?").response_gen) == "Goethe wrote Faust."
    assert [message["role"] for message in scripted.requests[-1].messages] == ["system", "user", "assistant", "user"]


class TestAgents:
    pytestmark = of_agents

    async def test_a_react_agent_uses_tools_by_text(self, scripted_llm, make_memory, library):
        llm = scripted_llm(
            'Thought: I need a tool.\nAction: author\nAction Input: {"work": "Faust"}',
            "Thought: I can answer without using any more tools.\nAnswer: Goethe did.",
        )
        agent = ReActAgent(llm=llm, tools=library.tools())
        assert str(await agent.run("Who wrote Faust?", memory=make_memory(llm))) == "Goethe did."
        assert library.asked == ["Faust"]
        assert any("Goethe wrote Faust" in message["content"] for message in llm.load().requests[-1].messages)

    @pytest.mark.parametrize("streaming", [True, False])
    async def test_a_function_agent_calls_a_tool_and_answers_with_its_result(
        self, scripted_llm, make_memory, library, streaming
    ):
        llm = scripted_llm(call_text("author", {"work": "Faust"}), "Goethe did.")
        agent = FunctionAgent(llm=llm, tools=library.tools(), streaming=streaming)
        result = await agent.run("Who wrote Faust?", memory=make_memory(llm))
        assert str(result) == "Goethe did."
        assert library.asked == ["Faust"]
        (made,) = result.tool_calls
        assert (made.tool_name, made.tool_kwargs) == ("author", {"work": "Faust"})
        asked, call, answer = llm.load().requests[-1].messages
        assert asked == {"role": "user", "content": "Who wrote Faust?"}
        function = {"name": "author", "arguments": {"work": "Faust"}}
        assert call["tool_calls"] == [{"id": made.tool_id, "type": "function", "function": function}]
        assert answer == {"role": "tool", "content": "Goethe wrote Faust", "tool_call_id": made.tool_id}

    async def test_a_function_agent_streams_text_thoughts_and_calls(self, scripted_llm, make_memory, library):
        thinks = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:{# <think> #}"
        call = call_text("author", {"work": "Faust"})
        llm = scripted_llm(f"<think>I look.</think>{call}", "<think>I know.</think>Goethe did.", chat_template=thinks)
        handler = FunctionAgent(llm=llm, tools=library.tools()).run("Who?", memory=make_memory(llm))
        streamed = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        assert str(await handler) == "Goethe did."
        assert "".join(event.delta for event in streamed) == "Goethe did."
        assert "".join(event.thinking_delta or "" for event in streamed) == "I look.I know."
        called = [event.tool_calls[0] for event in streamed if event.tool_calls]
        assert {call.tool_name for call in called} == {"author"}
        assert len({call.tool_id for call in called}) == 1
        assert called[-1].tool_kwargs == {"work": "Faust"}

    @pytest.mark.parametrize("streaming", [True, False])
    async def test_a_function_agent_makes_several_calls_at_once(self, scripted_llm, make_memory, library, streaming):
        calls = "\n".join(call_text("author", {"work": work}) for work in ("Faust", "Egmont"))
        llm = scripted_llm(calls, "Goethe did.")
        result = await FunctionAgent(llm=llm, tools=library.tools(), streaming=streaming).run(
            "Who?", memory=make_memory(llm)
        )
        assert str(result) == "Goethe did."
        assert sorted(library.asked) == ["Egmont", "Faust"]
        results = [message for message in llm.load().requests[-1].messages if message["role"] == "tool"]
        assert {message["content"] for message in results} == {"Goethe wrote Faust", "Goethe wrote Egmont"}

    async def test_a_function_agent_makes_the_first_call_that_it_is_told_to(self, scripted_llm, make_memory, library):
        llm = scripted_llm(call_text("author", {"work": "Faust"}), "Goethe did.")
        agent = FunctionAgent(llm=llm, tools=library.tools(), initial_tool_choice="author")
        await agent.run("Who wrote Faust?", memory=make_memory(llm))
        assert [request.output.tool_choice for request in llm.load().requests] == ["author", "auto"]

    async def test_a_function_agent_gives_an_object_of_its_output_class(self, scripted_llm, make_memory, library):
        llm = scripted_llm("Goethe did.", '{"name": "Goethe"}')
        agent = FunctionAgent(llm=llm, tools=library.tools(), output_cls=Author)
        result = await agent.run("Who?", memory=make_memory(llm))
        assert result.get_pydantic_model(Author) == Author(name="Goethe")
        assert llm.load().requests[-1].output.constraint is not None

    @pytest.mark.parametrize("streaming", [True, False])
    async def test_a_call_that_is_cut_off_stops_a_function_agent_and_is_not_made(
        self, scripted_llm, make_memory, library, streaming
    ):
        llm = scripted_llm(call_text("author", {"work": "Faust"}), max_tokens=30)
        agent = FunctionAgent(llm=llm, tools=library.tools(), streaming=streaming)
        with pytest.raises(IncompleteOutputError, match="its tool call was whole"):
            await agent.run("Who?", memory=make_memory(llm))
        assert library.asked == []

    async def test_a_workflow_takes_it_for_a_model_that_calls_tools(self, scripted_llm, make_memory, library):
        llm = scripted_llm(call_text("author", {"work": "Faust"}), "Goethe did.")
        workflow = AgentWorkflow.from_tools_or_functions(library.tools(), llm=llm)
        assert isinstance(workflow.agents["Agent"], FunctionAgent)
        assert str(await workflow.run("Who?", memory=make_memory(llm))) == "Goethe did."
