"""The scenarios of llama-index-core's own tests, with SDALLM over a scripted engine where upstream has mock LLMs.

One file in spite of its length, and one section for each folder of upstream's tests, so that a reader can hold the two
side by side. What upstream does without an LLM is left out, and so are images, which a text model refuses.
"""

import asyncio
import json
from contextlib import ExitStack, aclosing, closing
from functools import partial

import pytest
from llama_index.core import Document, MockEmbedding, PromptHelper, Settings, TreeIndex, VectorStoreIndex
from llama_index.core.agent.workflow import (
    AgentInput,
    AgentOutput,
    AgentStream,
    AgentStreamStructuredOutput,
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCall,
    ToolCallResult,
)
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.base.response.schema import PydanticResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.evaluation import GuidelineEvaluator, RelevancyEvaluator
from llama_index.core.indices.query.query_transform.base import StepDecomposeQueryTransform
from llama_index.core.indices.tree.select_leaf_retriever import TreeSelectLeafRetriever
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatInProgressEvent
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.streaming_utils import process_streaming_content_incremental
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.query_engine import (
    CitationQueryEngine,
    MultiStepQueryEngine,
    RetrieverQueryEngine,
    RetryGuidelineQueryEngine,
    RetryQueryEngine,
    RetrySourceQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import (
    Accumulate,
    CompactAndRefine,
    Generation,
    Refine,
    ResponseMode,
    SimpleSummarize,
    TreeSummarize,
    get_response_synthesizer,
)
from llama_index.core.response_synthesizers.compact_and_accumulate import CompactAndAccumulate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.selectors import (
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent, WorkflowRuntimeError
from pydantic import BaseModel, Field, field_validator
from workflows.context import PickleSerializer

from sda_engine.errors import IncompleteOutputError, SDAError
from sda_engine.evaluators import OpenAIEvaluator, Score
from sda_engine.testing import CHAT_TEMPLATE, ScriptedEngine, call_text
from tests.conformance.scripted_llms import requests_of, scripted_llm
from tests.sizes import ALL

# llama-index-workflows reads all attributes of an agent, and llama-index-core asks whether a step runs
pytestmark = [
    pytest.mark.usefixtures("no_event_loop_is_left_behind"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


THINKING = CHAT_TEMPLATE + "{# <think> #}"
QUESTION = [ChatMessage(role="user", content="Who wrote Faust?")]
ANSWER = "Goethe wrote Faust."


class Song(BaseModel):
    title: str


class Album(BaseModel):
    """A record."""

    title: str
    songs: list[Song]


class Person(BaseModel):
    """Somebody, whose name the schema does not limit but the class does."""

    name: str

    @field_validator("name")
    @classmethod
    def _is_capital(cls, name):
        if not name[:1].isupper():
            raise ValueError("a name begins with a capital")
        return name


ALBUM = {"title": "Faust", "songs": [{"title": "Sun"}, {"title": "Sky"}]}
SECOND_ALBUM = {"title": "Egmont", "songs": [{"title": "Sea"}]}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def text_of(request):
    """All that a request to the engine shows the model."""
    return "\n".join(str(message["content"]) for message in request.messages)


def last_prompt(llm):
    return text_of(requests_of(llm)[-1])


def roles(llm):
    return [message["role"] for message in requests_of(llm)[-1].messages]


async def collect(stream):
    return [item async for item in stream]


@pytest.fixture
def scripted_here():
    """Makes SDALLMs that answer by a script, and ends their engines.

    For what a test asks of an engine in its own process: an evaluator that is an object, or what an exception says.
    """
    with ExitStack() as stack:
        yield partial(make_scripted, stack, over_server=False)


@pytest.fixture(params=["here", "over a server"])
def scripted(request):
    """The same, with the engines in this process and behind servers on loopback."""
    with ExitStack() as stack:
        yield partial(make_scripted, stack, over_server=request.param == "over a server")


def make_scripted(stack, *script, over_server, chat_template=CHAT_TEMPLATE, context_window=16_384, **settings):
    engine = ScriptedEngine(script, chat_template=chat_template, context_window=context_window)
    return stack.enter_context(scripted_llm(engine, over_server=over_server, **settings))


# --- tests/llms/test_callbacks.py -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_may_be_given_by_place_or_by_name(scripted, stream):
    llm = scripted(ANSWER)
    method = llm.stream_complete if stream else llm.complete
    for response in (method("Who?"), method(prompt="Who?")):
        text = "".join(chunk.delta for chunk in response) if stream else response.text
        assert text == ANSWER
        assert last_prompt(llm) == "Who?"


@pytest.mark.parametrize("method", ["complete", "stream_complete"])
def test_a_prompt_given_twice_or_not_at_all_is_an_error(scripted, method):
    llm = scripted(ANSWER)
    with pytest.raises(TypeError):
        getattr(llm, method)("Who?", prompt="Who?")
    with pytest.raises(ValueError, match="prompt"):
        getattr(llm, method)()


async def test_streams_of_an_empty_answer_end(scripted):
    llm = scripted("")
    for chunks in (list(llm.stream_chat(QUESTION)), await collect(await llm.astream_chat(QUESTION))):
        assert [chunk.message.content for chunk in chunks] == [""]
        assert chunks[-1].raw["finish_reason"] == "stop"


def test_no_payload_tells_the_key_of_an_evaluator(scripted_here):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    llm = scripted_here(
        ANSWER,
        temperature=0.25,
        evaluator=OpenAIEvaluator(model="judge", api_key="sk-super-secret"),
        callback_manager=CallbackManager([handler]),
    )
    llm.complete("Who?", alignment="honesty", amplification=0.5)
    (start, _), *others = handler.get_event_pairs(CBEventType.LLM)
    assert not others
    payload = start.payload[EventPayload.SERIALIZED]
    assert payload["class_name"] == llm.class_name()
    assert payload["model_name"] == llm.metadata.model_name
    assert payload["temperature"] == 0.25
    assert "sk-super-secret" not in str(payload)
    assert "sk-super-secret" not in str(llm.to_payload()) + str(llm.to_dict()) + repr(llm)


# --- tests/llms/test_function_calling.py ------------------------------------------------------------------------------


@pytest.fixture
def person_tool():
    return get_function_tool(Person)


async def predicted(llm, kind, **keywords):
    if kind == "async":
        return await llm.apredict_and_call(**keywords)
    return llm.predict_and_call(**keywords)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_predicted_call_is_made(scripted, person_tool, kind):
    llm = scripted(call_text("Person", {"name": "Goethe"}))
    response = await predicted(llm, kind, tools=[person_tool], user_msg="Who?")
    assert response.sources[0].raw_output == Person(name="Goethe")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_tool_that_fails_is_an_error_where_asked(scripted, person_tool, kind):
    llm = scripted(call_text("Person", {"name": "goethe"}))
    response = await predicted(llm, kind, tools=[person_tool], user_msg="Who?")
    assert response.sources[0].is_error
    with pytest.raises(ValueError, match="capital"):
        await predicted(llm, kind, tools=[person_tool], user_msg="Who?", error_on_tool_error=True)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_several_calls_of_one_answer_are_made_where_allowed(scripted, kind):
    llm = scripted(call_text("add", {"a": 1, "b": 2}) + "\n" + call_text("add", {"a": 3, "b": 4}))
    tools = [FunctionTool.from_defaults(add)]
    response = await predicted(llm, kind, tools=tools, user_msg="Add.", allow_parallel_tool_calls=True)
    assert [source.raw_output for source in response.sources] == [3, 7]
    assert response.response == "3\n\n7"


# --- tests/llms/test_mock.py ------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_answered(scripted):
    chunks = list(scripted(ANSWER).stream_complete(""))
    assert chunks[-1].text == "".join(chunk.delta for chunk in chunks) == ANSWER


async def test_a_chat_with_no_tools_is_a_chat(scripted):
    llm = scripted(ANSWER)
    assert llm.chat_with_tools(tools=[], chat_history=QUESTION).message.content == ANSWER
    chunks = await collect(await llm.astream_chat_with_tools(tools=[], chat_history=QUESTION))
    assert "".join(chunk.delta for chunk in chunks) == ANSWER


def test_calls_are_read_from_a_response_however_their_arguments_are_given(scripted):
    llm = scripted(ANSWER)
    response = llm.chat(QUESTION)
    response.message.blocks = [
        ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 1, "b": 2}),
        ToolCallBlock(tool_call_id="2", tool_name="add", tool_kwargs='{"a": 1, "b": 2}'),
        ToolCallBlock(tool_call_id="3", tool_name="add", tool_kwargs="{"),
        ToolCallBlock(tool_call_id="4", tool_name="hello", tool_kwargs={}),
    ]
    calls = llm.get_tool_calls_from_response(response)
    assert [call.tool_kwargs for call in calls] == [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {}, {}]
    assert [(call.tool_id, call.tool_name) for call in calls][-1] == ("4", "hello")


def test_a_response_without_calls_has_none_or_is_an_error(scripted):
    llm = scripted(ANSWER)
    response = llm.chat(QUESTION)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="calls no tool"):
        llm.get_tool_calls_from_response(response)


# --- tests/llms/test_instrumentation_events.py ------------------------------------------------------------------------


class Events(BaseEventHandler):
    """Keeps what is told."""

    seen: list = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def events():
    handler = Events()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler.seen
    dispatcher.event_handlers.remove(handler)


def test_an_event_that_is_written_out_leaves_the_response_as_it_was(scripted, events):
    response = scripted(ANSWER).chat(QUESTION)
    before = json.dumps(response.raw)
    (end,) = [event for event in events if isinstance(event, LLMChatEndEvent)]
    assert end.model_dump()["response"]["raw"] == response.raw
    assert json.loads(end.model_dump_json())["response"]["raw"] == json.loads(before)
    assert json.dumps(response.raw) == before


def test_events_of_a_stream_can_be_written_out_while_it_grows(scripted, events):
    chunks = list(scripted(ANSWER).stream_chat(QUESTION))
    grown = [event.model_dump() for event in events if isinstance(event, LLMChatInProgressEvent)]
    assert [event["response"]["delta"] for event in grown] == [chunk.delta for chunk in chunks]
    assert chunks[-1].raw["finish_reason"] == "stop"


# --- tests/llms/test_structured_llm.py --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "{message}", '{"tests": [{"a": "b"}]}'])
async def test_a_structured_llm_fills_an_object_whole_and_in_streams(scripted, text):
    llm = scripted(json.dumps(ALBUM))
    structured = llm.as_structured_llm(Album)
    messages = [ChatMessage(role="user", content=text)]
    assert structured.chat(messages).raw == Album(**ALBUM)
    assert last_prompt(llm).endswith(text)
    assert (await structured.achat(messages)).raw == Album(**ALBUM)
    assert list(structured.stream_chat(messages))[-1].raw == Album(**ALBUM)
    assert (await collect(await structured.astream_chat(messages)))[-1].raw == Album(**ALBUM)


# --- tests/llms/test_parse_partial_json.py, test_utils.py -------------------------------------------------------------


class Search(BaseModel):
    """Search the shelves."""

    query: str
    top_k: int
    share: float
    rerank: bool
    filters: list[dict[str, str]]


SEARCH = {
    "query": 'who said "light: {more}"?\n',
    "top_k": 512,
    "share": -1.25,
    "rerank": True,
    "filters": [{"key": "C:\\Users"}, {"op": "≥ ❤"}],
}


def is_beginning(partial, final):
    """Whether nothing in a value that grows will have to be taken back."""
    if partial is None:
        return True
    if isinstance(final, dict):
        return all(key in final and is_beginning(value, final[key]) for key, value in partial.items())
    if isinstance(final, list):
        return len(partial) <= len(final) and all(map(is_beginning, partial, final))
    if isinstance(final, str):
        return final.startswith(partial)
    return partial == final


def test_the_arguments_of_a_call_only_grow_while_it_is_written(scripted):
    llm = scripted(call_text("Search", SEARCH))
    tool = FunctionTool.from_defaults(lambda **found: found, name="Search", fn_schema=Search)
    grown = []
    for chunk in llm.stream_chat_with_tools([tool], user_msg="Search."):
        grown += [call.tool_kwargs for call in llm.get_tool_calls_from_response(chunk, error_on_no_tool_call=False)]
    assert grown[-1] == SEARCH
    assert all(is_beginning(partial, SEARCH) for partial in grown)
    assert {"query": "who"} in grown


# --- tests/program/test_function_program.py ---------------------------------------------------------------------------


def album_program(llm, **settings):
    return FunctionCallingProgram.from_defaults(Album, "An album about {topic}.", llm=llm, **settings)


async def test_a_function_program_makes_an_object(scripted):
    llm = scripted(call_text("Album", ALBUM), system_prompt="Be brief.")
    program = album_program(llm)
    assert program(topic="poems") == Album(**ALBUM)
    assert text_of(requests_of(llm)[-1]).count("Be brief.") == 1
    assert await program.acall(topic="poems") == Album(**ALBUM)
    assert text_of(requests_of(llm)[-1]).count("Be brief.") == 1
    assert all("An album about poems." in text_of(request) for request in requests_of(llm))


async def test_a_function_program_makes_several_objects_where_allowed(scripted):
    llm = scripted(call_text("Album", ALBUM) + "\n" + call_text("Album", SECOND_ALBUM))
    program = album_program(llm, allow_parallel_tool_calls=True)
    expected = [Album(**ALBUM), Album(**SECOND_ALBUM)]
    assert program(topic="poems") == expected
    assert await program.acall(topic="poems") == expected


@pytest.mark.parametrize(
    ("choice", "meaning"),
    [(None, "required"), ("required", "required"), ({"type": "any"}, "required"), ("Album", "Album")],
)
async def test_a_function_program_forwards_its_tool_choice(scripted, choice, meaning):
    llm = scripted(call_text("Album", ALBUM))
    program = album_program(llm, tool_choice=choice)
    program(topic="poems")
    await program.acall(topic="poems")
    assert [request.output.tool_choice for request in requests_of(llm)] == [meaning, meaning]


class Names(BaseModel):
    names: list[str] = Field(default_factory=list)


class Value(BaseModel):
    value: str = ""


class Count(BaseModel):
    count: int = 0


@pytest.mark.parametrize("filled", [Names(names=["Faust", "Egmont"]), Value(value="hello"), Count(count=42)])
async def test_a_class_of_one_field_with_a_default_gets_the_value(scripted, filled):
    cls = type(filled)
    llm = scripted(call_text(cls.__name__, filled.model_dump()))
    program = FunctionCallingProgram.from_defaults(cls, "Fill it.", llm=llm)
    assert program() == filled
    assert await program.acall() == filled


async def test_a_function_program_reports_an_object_that_its_class_refuses(scripted):
    llm = scripted(call_text("Person", {"name": "goethe"}))
    program = FunctionCallingProgram.from_defaults(Person, "Who?", llm=llm)
    with pytest.raises(ValueError, match=r"(?s)Structured output extraction failed.*capital"):
        program()
    with pytest.raises(ValueError, match=r"(?s)Structured output extraction failed.*capital"):
        await program.acall()


async def test_a_function_program_reports_an_answer_that_was_cut_off(scripted):
    program = album_program(scripted(call_text("Album", ALBUM), max_tokens=30))
    with pytest.raises(IncompleteOutputError, match="cut off after 30 tokens"):
        program(topic="poems")
    with pytest.raises(IncompleteOutputError, match="cut off after 30 tokens"):
        await program.acall(topic="poems")


# --- tests/program/test_llm_program.py --------------------------------------------------------------------------------


def test_a_text_program_parses_the_answer(scripted):
    llm = scripted('{"title": "Night"}')
    program = LLMTextCompletionProgram.from_defaults(
        output_parser=PydanticOutputParser(output_cls=Song), prompt_template_str="A song about {topic}.", llm=llm
    )
    assert program(topic="stars") == Song(title="Night")
    assert "A song about stars." in last_prompt(llm)


async def test_a_text_program_with_chat_messages_parses_the_answer(scripted):
    llm = scripted('Sure: {"title": "Night"}')
    prompt = ChatPromptTemplate([ChatMessage(role="system", content="Sing."), ChatMessage(content="A song.")])
    program = LLMTextCompletionProgram.from_defaults(output_cls=Song, prompt=prompt, llm=llm)
    assert program() == Song(title="Night")
    assert await program.acall() == Song(title="Night")
    assert roles(llm) == ["system", "user"]


# --- tests/program/test_utils.py --------------------------------------------------------------------------------------


async def test_a_function_program_streams_an_object_that_grows(scripted):
    program = album_program(scripted(call_text("Album", ALBUM)))
    for objects in (list(program.stream_call(topic="poems")), await collect(await program.astream_call(topic="poems"))):
        assert objects[-1] == Album(**ALBUM)
        assert any(getattr(partial, "title", None) == "Fau" for partial in objects)
        counts = [len(getattr(partial, "songs", None) or []) for partial in objects]
        assert counts == sorted(counts)
        assert set(counts) == {0, 1, 2}


async def test_a_function_program_streams_several_objects_where_allowed(scripted):
    llm = scripted(call_text("Album", ALBUM) + "\n" + call_text("Album", SECOND_ALBUM))
    program = album_program(llm, allow_parallel_tool_calls=True)
    expected = [Album(**ALBUM), Album(**SECOND_ALBUM)]
    assert list(program.stream_call(topic="poems"))[-1] == expected
    assert (await collect(await program.astream_call(topic="poems")))[-1] == expected


# --- tests/program/test_streaming_utils.py ----------------------------------------------------------------------------


def test_lists_in_a_streamed_text_grow_item_by_item(scripted):
    llm = scripted(json.dumps(ALBUM))
    current, counts = None, []
    for chunk in llm.stream_chat(QUESTION, response_format=Album):
        current = process_streaming_content_incremental(chunk, Album, current)
        counts.append(len(getattr(current, "songs", None) or []))
    assert current == Album(**ALBUM)
    assert set(counts) == {0, 1, 2}


async def test_structured_streams_grow_item_by_item(scripted):
    llm = scripted(json.dumps(ALBUM))
    prompt = PromptTemplate("An album about {topic}.")
    streams = (
        list(llm.stream_structured_predict(Album, prompt, topic="poems")),
        await collect(await llm.astream_structured_predict(Album, prompt, topic="poems")),
    )
    for objects in streams:
        assert objects[-1] == Album(**ALBUM)
        counts = [len(getattr(partial, "songs", None) or []) for partial in objects]
        assert counts == sorted(counts)
        assert set(counts) == {0, 1, 2}


# --- tests/agent/workflow/test_single_agent_workflow.py ---------------------------------------------------------------

ACTION = 'Thought: I need to add these.\nAction: add\nAction Input: {"a": 5, "b": 3}'
FINAL = "Thought: I can answer.\nAnswer: The sum is 8."


def memory_of(llm):
    """A memory in place of LlamaIndex's default, which leaves a database open."""
    return ChatMemoryBuffer.from_defaults(llm=llm)


async def run(agent, text="What is 5 + 3?", **keywords):
    """All events of a run, and its result."""
    handler = agent.run(user_msg=text, **keywords)
    seen = [event async for event in handler.stream_events()]
    return seen, await handler


def of(kind, seen):
    return [event for event in seen if type(event) is kind]


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_answers(scripted, streaming):
    llm = scripted(ANSWER)
    agent = FunctionAgent(llm=llm, system_prompt="You find books.", streaming=streaming)
    seen, result = await run(agent, "Who wrote Faust?")
    assert str(result) == ANSWER
    assert roles(llm) == ["system", "user"]
    deltas = [event.delta for event in of(AgentStream, seen)]
    assert "".join(deltas) == (ANSWER if streaming else "")
    assert result.raw["finish_reason"] == "stop"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_calls_a_tool_and_answers(scripted, streaming):
    llm = scripted(call_text("add", {"a": 5, "b": 3}), "It is 8.")
    memory = memory_of(llm)
    agent = FunctionAgent(llm=llm, tools=[add], streaming=streaming)
    seen, result = await run(agent, memory=memory)
    assert str(result) == "It is 8."
    (call,), (found,) = of(ToolCall, seen), of(ToolCallResult, seen)
    assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 5, "b": 3})
    assert found.tool_output.raw_output == 8
    assert found.tool_id == call.tool_id != ""
    assert roles(llm) == ["user", "assistant", "tool"]
    _, asked, told = requests_of(llm)[-1].messages
    assert asked["tool_calls"][0]["id"] == told["tool_call_id"] == call.tool_id
    assert told["content"] == "8"
    assert [message.role.value for message in memory.get_all()] == ["user", "assistant", "tool", "assistant"]


async def test_a_function_agent_makes_two_calls_of_one_answer(scripted):
    def weather(place: str = "Berlin") -> str:
        return f"rain in {place}"

    llm = scripted(call_text("add", {"a": 5, "b": 3}) + "\n" + call_text("weather", {"place": "Weimar"}), "Done.")
    seen, result = await run(FunctionAgent(llm=llm, tools=[add, weather]))
    outputs = {event.tool_name: event.tool_output.raw_output for event in of(ToolCallResult, seen)}
    assert outputs == {"add": 8, "weather": "rain in Weimar"}
    assert roles(llm) == ["user", "assistant", "tool", "tool"]
    assert str(result) == "Done."


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_tool_without_arguments_is_called_once(scripted, streaming):
    calls = []

    def look() -> str:
        calls.append("look")
        return "dark"

    agent = FunctionAgent(llm=scripted(call_text("look", {}), "Finished."), tools=[look], streaming=streaming)
    _, result = await run(agent)
    assert (calls, str(result)) == (["look"], "Finished.")


async def test_a_function_agent_reads_all_text_of_a_message_and_remembers_it(scripted):
    llm = scripted("Two.", "Still two.")
    agent, memory = FunctionAgent(llm=llm, tools=[add], system_prompt="You do sums."), memory_of(llm)
    message = ChatMessage(role="user", blocks=[TextBlock(text="Help me."), TextBlock(text="One plus one?")])
    assert str(await agent.run(user_msg=message, ctx=Context(agent), memory=memory)) == "Two."
    assert last_prompt(llm).endswith("Help me.\nOne plus one?")
    assert str(await agent.run(user_msg="Sure?", memory=memory)) == "Still two."
    assert roles(llm) == ["system", "user", "assistant", "user"]


async def test_a_react_agent_uses_a_tool_by_text(scripted):
    llm = scripted(ACTION, FINAL)
    agent = ReActAgent(llm=llm, tools=[add], system_prompt="You do sums.")
    seen, result = await run(agent, memory=memory_of(llm))
    assert str(result) == "The sum is 8."
    assert of(ToolCallResult, seen)[0].tool_output.raw_output == 8
    assert "Observation: 8" in last_prompt(llm)
    assert "You do sums." in last_prompt(llm)
    assert "> Tool Name: add" in last_prompt(llm)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ('Thought: I need to add these.\nAction: add\n{"a": 5 "b": 3}', "Error while parsing the output"),
        ("", "FAILURE: Your previous response was empty"),
    ],
)
async def test_a_react_agent_asks_again_after_an_answer_that_cannot_be_read(scripted, answer, complaint):
    llm = scripted(answer, ACTION, FINAL)
    seen, result = await run(ReActAgent(llm=llm, tools=[add]), memory=memory_of(llm))
    assert complaint in of(AgentInput, seen)[1].input[-1].content
    assert complaint in text_of(requests_of(llm)[1])
    assert str(result) == "The sum is 8."


async def test_an_agent_stops_after_its_iterations(scripted):
    llm = scripted(call_text("add", {"a": 5, "b": 3}))
    agent = FunctionAgent(llm=llm, tools=[add])
    with pytest.raises(WorkflowRuntimeError, match="Max iterations of 3 reached"):
        await agent.run(user_msg="Add.", max_iterations=3)
    assert len(requests_of(llm)) == 3


@pytest.mark.parametrize("kind", ["agent", "run", "workflow"])
async def test_an_agent_that_stops_early_may_give_a_last_answer(scripted, kind):
    call = call_text("add", {"a": 5, "b": 3})
    llm = scripted(call, call, "In short, 8.")
    early = {"early_stopping_method": "generate"}
    agent = FunctionAgent(llm=llm, tools=[add], system_prompt="You do sums.", **(early if kind == "agent" else {}))
    runs = AgentWorkflow([agent], **early) if kind == "workflow" else agent
    _, result = await run(runs, max_iterations=2, **(early if kind == "run" else {}))
    assert str(result) == "In short, 8."
    assert "maximum number of iterations" in last_prompt(llm)
    assert not requests_of(llm)[-1].output.tools


# --- tests/agent/workflow/test_multi_agent_workflow.py ----------------------------------------------------------------

HANDOFF = call_text("handoff", {"to_agent": "calculator", "reason": "It is a sum."})


def two_agents(retriever_llm, calculator_llm):
    retriever = FunctionAgent(name="retriever", description="Finds things.", llm=retriever_llm)
    calculator = ReActAgent(name="calculator", description="Does sums.", llm=calculator_llm, tools=[add])
    return AgentWorkflow([calculator, retriever], root_agent="retriever")


async def test_a_function_agent_hands_off_to_a_react_agent(scripted):
    first, second = scripted(HANDOFF), scripted(ACTION, FINAL)
    seen, result = await run(two_agents(first, second), memory=memory_of(first))
    assert "The sum is 8." in str(result)
    assert [event.current_agent_name for event in of(AgentOutput, seen)] == ["retriever", "calculator", "calculator"]
    (tool,) = requests_of(first)[0].output.tools
    assert tool.name == "handoff"
    assert "calculator" in tool.description
    assert "What is 5 + 3?" in text_of(requests_of(second)[0])


async def test_a_function_agent_hands_off_to_another_with_the_same_llm(scripted):
    llm = scripted(HANDOFF, call_text("add", {"a": 5, "b": 3}), "It is 8.")
    agents = [
        FunctionAgent(name="retriever", description="Finds things.", llm=llm, can_handoff_to=["calculator"]),
        FunctionAgent(name="calculator", description="Does sums.", llm=llm, tools=[add], can_handoff_to=[]),
    ]
    seen, result = await run(AgentWorkflow(agents, root_agent="retriever"))
    assert str(result) == "It is 8."
    assert [event.tool_name for event in of(ToolCallResult, seen)] == ["handoff", "add"]
    assert [[tool.name for tool in request.output.tools] for request in requests_of(llm)] == [
        ["handoff"],
        ["add"],
        ["add"],
    ]


async def test_an_agent_with_an_empty_answer_after_a_handoff_is_asked_again(scripted):
    first, second = scripted(HANDOFF), scripted("", FINAL)
    seen, result = await run(two_agents(first, second), memory=memory_of(first))
    complaint = "FAILURE: Your previous response was empty"
    assert any(complaint in event.input[-1].content for event in of(AgentInput, seen))
    assert "The sum is 8." in str(result)


async def test_a_root_agent_with_an_empty_answer_ends_the_run(scripted):
    first, second = scripted(""), scripted(FINAL)
    _, result = await run(two_agents(first, second), memory=memory_of(first))
    assert not result.response.content
    assert not requests_of(second)


async def test_a_handoff_to_nobody_is_told_to_the_agent(scripted):
    llm = scripted(call_text("handoff", {"to_agent": "nobody", "reason": "?"}), "I am stuck.")
    agents = [FunctionAgent(name=name, description=name, llm=llm) for name in ("one", "two")]
    _, result = await run(AgentWorkflow(agents, root_agent="one"))
    assert "Agent nobody not found" in last_prompt(llm)
    assert str(result) == "I am stuck."


async def test_tools_change_the_state_of_a_workflow(scripted):
    async def count(by: int, ctx: Context) -> str:
        state = await ctx.store.get("state")
        state["count"] += by
        await ctx.store.set("state", state)
        return f"Now {state}"

    llm = scripted(call_text("count", {"by": 2}), "Counted.")
    agent = FunctionAgent(name="agent", description="Counts.", llm=llm, tools=[count])
    prompt = "Current state: {state}. User message: {msg}"
    workflow = AgentWorkflow([agent], initial_state={"count": 0}, state_prompt=prompt)
    handler = workflow.run(user_msg="Count.")
    assert str(await handler) == "Counted."
    assert await handler.ctx.store.get("state") == {"count": 2}
    assert list(requests_of(llm)[0].output.tools[0].parameters["properties"]) == ["by"]
    assert all(text_of(request).count("Current state:") == 1 for request in requests_of(llm))


# JsonSerializer, the default, drops the memory: LlamaIndex's SimpleChatStore cannot be written under pydantic 2.14
async def test_a_workflow_waits_for_a_human_and_goes_on_from_a_written_context(scripted):
    async def ask(ctx: Context) -> str:
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="Your name?"))
        return f"The name is {answer.response}"

    llm = scripted(call_text("ask", {}), "Welcome.")
    workflow = AgentWorkflow([FunctionAgent(name="agent", description="Asks.", llm=llm, tools=[ask])])
    handler = workflow.run(user_msg="Let me in.")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            written = handler.ctx.to_dict(serializer=PickleSerializer())
            await handler.cancel_run()
            break
    context = Context.from_dict(workflow, written, serializer=PickleSerializer())
    handler = workflow.run(user_msg="Let me in.", ctx=context)
    handler.ctx.send_event(HumanResponseEvent(response="Gretchen"))
    assert str(await handler) == "Welcome."
    assert "The name is Gretchen" in last_prompt(llm)


# --- tests/agent/workflow/test_agent_with_structured_output.py --------------------------------------------------------


class Sum(BaseModel):
    total: int
    sure: bool


def sum_of(messages):
    return {"total": len(messages), "sure": False}


async def async_sum_of(messages):
    return sum_of(messages)


@pytest.mark.parametrize("kind", ["agent", "workflow", "tools"])
async def test_an_agent_fills_an_output_class_after_its_answer(scripted, kind):
    llm = scripted("It is 8.", '{"total": 8, "sure": true}')
    agent = FunctionAgent(llm=llm, system_prompt="You do sums.", output_cls=Sum if kind == "agent" else None)
    if kind == "workflow":
        agent = AgentWorkflow([agent], output_cls=Sum)
    elif kind == "tools":
        agent = AgentWorkflow.from_tools_or_functions([add], llm=llm, system_prompt="You do sums.", output_cls=Sum)
    seen, result = await run(agent)
    assert str(result) == "It is 8."
    assert result.get_pydantic_model(Sum) == Sum(total=8, sure=True)
    assert of(AgentStreamStructuredOutput, seen)[0].output == {"total": 8, "sure": True}
    assert requests_of(llm)[-1].output.constraint.kind == "json_schema"
    assert "It is 8." in last_prompt(llm)
    assert last_prompt(llm).startswith("You do sums.")


@pytest.mark.parametrize("function", [sum_of, async_sum_of])
@pytest.mark.parametrize("kind", ["agent", "workflow", "tools"])
async def test_a_function_may_fill_the_output_class(scripted, kind, function):
    llm = scripted("It is 8.")
    agent = FunctionAgent(llm=llm, structured_output_fn=function if kind == "agent" else None)
    if kind == "workflow":
        agent = AgentWorkflow([agent], structured_output_fn=function)
    elif kind == "tools":
        agent = AgentWorkflow.from_tools_or_functions([add], llm=llm, structured_output_fn=function)
    seen, result = await run(agent)
    assert result.get_pydantic_model(Sum) == Sum(total=2, sure=False)
    assert len(of(AgentStreamStructuredOutput, seen)) == 1
    assert len(requests_of(llm)) == 1


async def test_agents_that_hand_off_fill_an_output_class_after_the_last_answer(scripted):
    llm = scripted(HANDOFF, call_text("add", {"a": 5, "b": 3}), "It is 8.", '{"total": 8, "sure": true}')
    agents = [
        FunctionAgent(name="retriever", description="Finds things.", llm=llm, can_handoff_to=["calculator"]),
        FunctionAgent(name="calculator", description="Does sums.", llm=llm, tools=[add], can_handoff_to=[]),
    ]
    _, result = await run(AgentWorkflow(agents, root_agent="retriever", output_cls=Sum))
    assert result.get_pydantic_model(Sum) == Sum(total=8, sure=True)


# --- tests/agent/workflow/test_return_direct_e2e.py, test_function_call.py --------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_tool_that_returns_directly_may_fail_first(scripted, streaming):
    def push(again: bool = False) -> str:
        if not again:
            raise RuntimeError("Stuck: push again")
        return "Open"

    llm = scripted(call_text("push", {"again": False}), call_text("push", {"again": True}), "Never said.")
    tool = FunctionTool.from_defaults(push, return_direct=True)
    seen, result = await run(FunctionAgent(llm=llm, tools=[tool], streaming=streaming))
    assert [event.tool_output.is_error for event in of(ToolCallResult, seen)] == [True, False]
    assert str(result) == "Open"
    assert "Stuck: push again" in last_prompt(llm)
    assert len(requests_of(llm)) == 2


async def test_one_of_two_calls_may_return_directly(scripted):
    llm = scripted(call_text("add", {"a": 5, "b": 3}) + "\n" + call_text("shout", {}))
    tools = [add, FunctionTool.from_defaults(lambda: "HO", name="shout", return_direct=True)]
    _, result = await run(FunctionAgent(llm=llm, tools=tools))
    assert str(result) == "HO"
    assert len(requests_of(llm)) == 1


# --- tests/agent/workflow/test_react_agent.py, tests/agent/react ------------------------------------------------------


async def test_the_prompt_of_a_react_agent_can_be_changed(scripted):
    llm = scripted(FINAL)
    agent = ReActAgent(llm=llm, tools=[add])
    header = PromptTemplate("{greeting} Tools: {tool_desc} ({tool_names})").partial_format(greeting="Good day.")
    agent.update_prompts({"react_header": header})
    await agent.run(user_msg="What is 5 + 3?", memory=memory_of(llm))
    assert text_of(requests_of(llm)[0]).startswith("Good day. Tools: > Tool Name: add")


async def test_a_react_agent_takes_an_answer_without_a_thought(scripted):
    llm = scripted("Well, the sum is 8.")
    _, result = await run(ReActAgent(llm=llm, tools=[add]), memory=memory_of(llm))
    assert str(result) == "Well, the sum is 8."


async def test_a_react_agent_remembers_its_last_question(scripted):
    llm = scripted(ACTION, FINAL, "Thought: I know.\nAnswer: Yes.")
    memory = memory_of(llm)
    agent = ReActAgent(llm=llm, tools=[add])
    await run(agent, memory=memory)
    assert str((await run(agent, "Sure?", memory=memory))[1]) == "Yes."
    assert "What is 5 + 3?" in last_prompt(llm)
    assert "The sum is 8." in last_prompt(llm)


# --- tests/agent/workflow/test_thinking_delta.py, test_function_agent_reasoning_only.py -------------------------------


def execute(code: str) -> str:
    return "42\n"


@pytest.mark.parametrize(
    ("kind", "answer"),
    [(FunctionAgent, ANSWER), (CodeActAgent, ANSWER), (ReActAgent, f"Thought: Ok.\nAnswer: {ANSWER}")],
)
async def test_agents_stream_thoughts_apart_from_the_answer(scripted, kind, answer):
    llm = scripted(f"<think>A poet of Weimar.</think>{answer}", chat_template=THINKING)
    agent = kind(llm=llm, **({"code_execute_fn": execute} if kind is CodeActAgent else {}))
    seen, result = await run(agent, "Who wrote Faust?", memory=memory_of(llm))
    streamed = of(AgentStream, seen)
    assert "".join(event.thinking_delta or "" for event in streamed) == "A poet of Weimar."
    assert "".join(event.delta for event in streamed) == answer
    assert streamed[0].thinking_delta
    assert streamed[-1].thinking_delta is None
    assert str(result) == ANSWER


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_thought_before_a_call_goes_no_further(scripted, streaming):
    llm = scripted(
        "<think>A sum.</think>" + call_text("add", {"a": 5, "b": 3}),
        "<think>So.</think>It is 8.",
        chat_template=THINKING,
    )
    _, result = await run(FunctionAgent(llm=llm, tools=[add], streaming=streaming))
    assert [type(block) for block in result.response.blocks] == [ThinkingBlock, TextBlock]
    assert str(result) == "It is 8."
    assert "A sum." not in last_prompt(llm)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_thought_without_an_answer_is_no_answer(scripted, streaming):
    llm = scripted("<think>Paris.</think>", chat_template=THINKING)
    _, result = await run(FunctionAgent(llm=llm, streaming=streaming))
    assert not result.response.content
    assert result.response.blocks[0].content == "Paris."


# --- tests/agent/workflow/test_code_act_agent.py ----------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_code_act_agent_has_code_executed(scripted, streaming):
    llm = scripted("Let me see.\n<execute>\nprint(6 * 7)\n</execute>", "It is 42.")
    agent = CodeActAgent(code_execute_fn=execute, llm=llm, tools=[add], streaming=streaming)
    seen, result = await run(agent, "What is 6 * 7?", memory=memory_of(llm))
    assert of(ToolCall, seen)[0].tool_kwargs == {"code": "print(6 * 7)"}
    assert str(result) == "It is 42."
    assert "42\n" in last_prompt(llm)
    assert "def add(a: int, b: int) -> int:" in last_prompt(llm)


async def test_a_code_act_agent_hands_off(scripted):
    llm = scripted(HANDOFF, "It is 8.")
    coder = CodeActAgent(name="coder", description="Writes code.", code_execute_fn=execute, llm=llm)
    calculator = FunctionAgent(name="calculator", description="Does sums.", llm=llm, tools=[add])
    seen, result = await run(AgentWorkflow([coder, calculator], root_agent="coder"))
    assert [event.tool_name for event in of(ToolCall, seen)] == ["handoff"]
    assert str(result) == "It is 8."
    assert result.current_agent_name == "calculator"


# --- tests/query_engine -----------------------------------------------------------------------------------------------

LIBRARY = "The library opens at nine."


def index_of(*texts):
    return VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts], embed_model=MockEmbedding(embed_dim=8)
    )


@pytest.fixture
def default_llm(monkeypatch):
    """Makes an LLM the one that LlamaIndex takes where it is given none."""
    return lambda llm: monkeypatch.setattr(Settings, "_llm", llm)


class Meeting:
    """An evaluator that rates a request once a second one is there as well, so neither may hold up the event loop."""

    needs_response = False

    def __init__(self):
        self._met = asyncio.Event()
        self._waiting = 0

    def evaluate(self, request):
        assert self._met.is_set(), "the first two are to be asked side by side"
        return Score(value=50, evaluator="meeting")

    async def aevaluate(self, request):
        self._waiting += 1
        if self._waiting == 2:
            self._met.set()
        async with asyncio.timeout(60):
            await self._met.wait()
        return self.evaluate(request)


def library_tool(llm, name="library"):
    engine = index_of(LIBRARY).as_query_engine(llm=llm)
    return QueryEngineTool.from_defaults(engine, name=name, description=f"Knows the {name}.")


# test_retriever_query_engine.py


def test_a_query_engine_takes_the_llm_of_the_settings_and_the_retriever_that_of_its_index(scripted, default_llm):
    llm = scripted("ANSWER: (1). It is the one.", "At nine.")
    default_llm(llm)
    retriever = TreeSelectLeafRetriever(TreeIndex.from_documents([Document(text=LIBRARY), Document(text="It is red.")]))
    response = RetrieverQueryEngine(retriever).query("When does it open?")
    assert str(response) == "At nine."
    assert [node.text for node in response.source_nodes] == [LIBRARY]
    assert len(requests_of(llm)) == 2


# test_citation_query_engine.py


async def test_a_citation_engine_numbers_its_sources(scripted):
    llm = scripted("It opens at nine [1].")
    splitter = SentenceSplitter(chunk_size=32, chunk_overlap=0)
    engine = CitationQueryEngine.from_args(
        index_of("The library opens at nine. " * 10), llm=llm, citation_chunk_size=32, text_splitter=splitter
    )
    response = await engine.aquery("When does it open?")
    assert str(response) == "It opens at nine [1]."
    assert len(response.source_nodes) > 1
    for number, node in enumerate(response.source_nodes, start=1):
        assert node.text.startswith(f"Source {number}:\n")
        assert node.text.strip() in last_prompt(llm)


# test_router_query_engine.py


@pytest.mark.parametrize(
    ("selector", "choice"),
    [
        (LLMSingleSelector, '[{"choice": 2, "reason": "It is a theatre."}]'),
        (PydanticSingleSelector, call_text("SingleSelection", {"index": 2, "reason": "It is a theatre."})),
    ],
)
async def test_a_router_asks_the_engine_that_the_llm_selects(scripted, selector, choice):
    llm, other, chosen = scripted(choice), scripted("At nine."), scripted("At eight.")
    router = RouterQueryEngine(
        selector.from_defaults(llm=llm), [library_tool(other), library_tool(chosen, "theatre")], llm=llm
    )
    assert str(router.query("When does the play begin?")) == "At eight."
    response = await router.aquery("When does the play begin?")
    assert str(response) == "At eight."
    assert response.metadata["selector_result"].reason == "It is a theatre."
    assert "(2) Knows the theatre." in last_prompt(llm)
    assert not requests_of(other)


@pytest.mark.parametrize(
    ("selector", "choice"),
    [
        (LLMMultiSelector, '[{"choice": 1, "reason": "a"}, {"choice": 2, "reason": "b"}]'),
        (
            PydanticMultiSelector,
            call_text("MultiSelection", {"selections": [{"index": 1, "reason": "a"}, {"index": 2, "reason": "b"}]}),
        ),
    ],
)
async def test_a_router_asks_several_engines_at_once_and_combines_their_answers(scripted_here, selector, choice):
    llm, steering = scripted_here(choice, "At nine and at eight."), {"alignment": "honesty", "evaluator": Meeting()}
    first, second = scripted_here("At nine.", **steering), scripted_here("At eight.", **steering)
    router = RouterQueryEngine(
        selector.from_defaults(llm=llm),
        [library_tool(first), library_tool(second, "theatre")],
        llm=llm,
        summarizer=TreeSummarize(llm=llm),
    )
    assert str(await router.aquery("When do they open?")) == "At nine and at eight."
    assert "At nine." in last_prompt(llm)
    assert "At eight." in last_prompt(llm)


# test_sub_question_query_engine.py


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_sub_questions_are_answered_and_a_failing_one_is_left_out(scripted, kind):
    items = [
        {"sub_question": "When does the library open?", "tool_name": "library"},
        {"sub_question": "When does the play begin?", "tool_name": "theatre"},
    ]
    llm = scripted("```json\n" + json.dumps({"items": items}) + "\n```", "The library opens at nine.")
    works, fails = scripted("At nine."), scripted(RuntimeError("no power"))
    engine = SubQuestionQueryEngine.from_defaults(
        [library_tool(works), library_tool(fails, "theatre")],
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        response_synthesizer=get_response_synthesizer(llm=llm),
        llm=llm,
        use_async=False,
        verbose=False,
    )
    query = "When do they open?"
    response = engine.query(query) if kind == "sync" else await engine.aquery(query)
    assert str(response) == "The library opens at nine."
    assert "When does the library open?\nResponse: At nine." in last_prompt(llm)
    assert "play" not in last_prompt(llm)
    assert len(requests_of(fails)) == 1


# test_retry_query_engine.py, test_retry_source_query_engine.py


def test_an_answer_that_is_judged_irrelevant_is_asked_for_again(scripted, default_llm):
    llm, judge = scripted("It is red.", "At nine."), scripted("NO", "YES")
    default_llm(llm)
    engine = RetryQueryEngine(index_of(LIBRARY).as_query_engine(llm=llm), RelevancyEvaluator(llm=judge))
    assert str(engine.query("When does it open?")) == "At nine."
    assert "Here is a previous bad answer.\nIt is red." in last_prompt(llm)
    assert [len(requests_of(model)) for model in (llm, judge)] == [2, 2]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_an_answer_that_breaks_a_guideline_is_asked_for_again_with_the_feedback(scripted, default_llm, retries):
    llm, judge = scripted("It is red."), scripted('{"passing": false, "feedback": "Name the hour."}')
    default_llm(llm)
    engine = RetryGuidelineQueryEngine(
        index_of(LIBRARY).as_query_engine(llm=llm), GuidelineEvaluator(llm=judge), max_retries=retries
    )
    assert str(engine.query("When does it open?")) == "It is red."
    assert [len(requests_of(model)) for model in (llm, judge)] == [retries + 1, retries]
    assert ("Name the hour." in last_prompt(llm)) == (retries > 0)


def test_an_answer_is_asked_for_again_of_the_sources(scripted, default_llm):
    llm, judge = scripted("It is red.", "At nine."), scripted("NO", "YES", "YES")
    default_llm(llm)
    engine = RetrySourceQueryEngine(index_of(LIBRARY).as_query_engine(llm=llm), RelevancyEvaluator(llm=judge), llm=llm)
    response = engine.query("When does it open?")
    assert str(response) == "At nine."
    assert [node.text for node in response.source_nodes] == [LIBRARY]


# test_multistep_query_engine.py


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_question_is_answered_in_steps(scripted, kind):
    llm = scripted("When does the library open?", "At nine.", "None", "An hour after eight.")
    engine = MultiStepQueryEngine(
        index_of(LIBRARY).as_query_engine(llm=llm),
        StepDecomposeQueryTransform(llm=llm),
        response_synthesizer=get_response_synthesizer(llm=llm),
        num_steps=3,
    )
    query = "How long after eight does it open?"
    response = engine.query(query) if kind == "sync" else await engine.aquery(query)
    assert str(response) == "An hour after eight."
    assert "- When does the library open?\n- At nine." in text_of(requests_of(llm)[2])
    assert "Question: When does the library open?\nAnswer: At nine." in last_prompt(llm)
    assert len(requests_of(llm)) == 4


# --- tests/chat_engine ------------------------------------------------------------------------------------------------


def chat_engine(kind, llm, **settings):
    settings = {"llm": llm, "memory": memory_of(llm), **settings}
    if kind is SimpleChatEngine:
        return kind.from_defaults(**settings)
    index = index_of(LIBRARY)
    if kind is CondenseQuestionChatEngine:
        return kind.from_defaults(index.as_query_engine(llm=llm), **settings)
    return kind.from_defaults(index.as_retriever(), **settings)


async def said(engine, way, text):
    """What a chat engine answers, in any of the four ways of asking it."""
    if way == "chat":
        return str(engine.chat(text))
    if way == "achat":
        return str(await engine.achat(text))
    if way == "stream_chat":
        response = engine.stream_chat(text)
        deltas = list(response.response_gen)
    else:
        response = await engine.astream_chat(text)
        deltas = await collect(response.async_response_gen())
    assert len(deltas) > 1
    assert "".join(deltas) == str(response)
    return str(response)


WAYS = ["chat", "stream_chat", "achat", "astream_chat"]


# test_simple.py, test_context.py, test_condense_plus_context.py


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [SimpleChatEngine, ContextChatEngine])
async def test_chat_engines_answer_and_remember(scripted, kind, way):
    llm = scripted("At nine.", "Every day.", "Good day.")
    engine = chat_engine(kind, llm, system_prompt="Talk like a pirate.")
    assert await said(engine, way, "When does it open?") == "At nine."
    assert await said(engine, way, "Always?") == "Every day."
    assert [message.content for message in engine.chat_history] == [
        "When does it open?",
        "At nine.",
        "Always?",
        "Every day.",
    ]
    assert roles(llm) == ["system", "user", "assistant", "user"]
    assert "Talk like a pirate." in last_prompt(llm)
    assert (LIBRARY in last_prompt(llm)) == (kind is ContextChatEngine)
    engine.reset()
    assert await said(engine, way, "Hello!") == "Good day."
    assert roles(llm) == ["system", "user"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_chat_engine_condenses_a_later_question(scripted, way):
    llm = scripted("At nine.", "Does the library always open at nine?", "Every day.")
    engine = chat_engine(CondensePlusContextChatEngine, llm, system_prompt="Talk like a pirate.")
    assert await said(engine, way, "When does it open?") == "At nine."
    assert await said(engine, way, "Always?") == "Every day."
    assert len(engine.chat_history) == 4
    condensing, answering = requests_of(llm)[1:]
    assert "user: When does it open?\nassistant: At nine." in text_of(condensing)
    assert "Talk like a pirate." in text_of(answering)
    assert LIBRARY in text_of(answering)
    assert text_of(answering).endswith("Always?")


@pytest.mark.parametrize("way", WAYS)
async def test_a_query_engine_is_asked_the_condensed_question(scripted, way):
    llm = scripted("Does the library always open at nine?", "Every day.")
    memory = ChatMemoryBuffer.from_defaults(
        [ChatMessage(role="user", content="When does it open?"), ChatMessage(role="assistant", content="At nine.")], llm
    )
    engine = chat_engine(CondenseQuestionChatEngine, llm, memory=memory)
    assert await said(engine, way, "Always?") == "Every day."
    assert "user: When does it open?\nassistant: At nine." in text_of(requests_of(llm)[0])
    assert "Query: Does the library always open at nine?" in last_prompt(llm)
    assert engine.chat_history[-1].content == "Every day."


@pytest.mark.parametrize("kind", [SimpleChatEngine, ContextChatEngine, CondensePlusContextChatEngine])
async def test_a_history_that_is_given_takes_the_place_of_the_memory(scripted, kind):
    llm = scripted("At nine.")
    engine = chat_engine(kind, llm, skip_condense=True)
    engine.chat("When does it open?")
    for history, expected in (([], 1), ([ChatMessage(role="user", content="Hi."), ChatMessage(role="assistant")], 3)):
        engine.chat("Always?", chat_history=history)
        assert len([role for role in roles(llm) if role != "system"]) == expected


@pytest.mark.parametrize("kind", [SimpleChatEngine, CondenseQuestionChatEngine, CondensePlusContextChatEngine])
async def test_a_stream_that_is_read_in_part_is_remembered_whole(scripted, kind):
    engine = chat_engine(kind, scripted(ANSWER))
    with closing(engine.stream_chat("Who wrote Faust?").response_gen) as deltas:
        assert next(deltas) == "G"
    assert [message.content for message in engine.chat_history] == ["Who wrote Faust?", ANSWER]
    engine.reset()
    response = await engine.astream_chat("Who wrote Faust?")
    async with aclosing(response.async_response_gen()) as deltas:
        await anext(deltas)
    assert [message.content for message in engine.chat_history] == ["Who wrote Faust?", ANSWER]


async def test_a_stream_that_nobody_reads_is_remembered(scripted):
    engine = chat_engine(SimpleChatEngine, scripted(ANSWER))
    response = await engine.astream_chat("Who wrote Faust?")
    await response.awrite_response_to_history_task
    assert str(response) == response.response == ANSWER


# The history's own thread raises as well
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_failure_in_a_stream_reaches_its_reader(scripted_here):
    engine = chat_engine(SimpleChatEngine, scripted_here(("Goethe wrote", RuntimeError("no power"))))
    response = engine.stream_chat("Who wrote Faust?")
    with pytest.raises(SDAError, match="no power"):
        list(response.response_gen)
    response = await engine.astream_chat("Who wrote Faust?")
    with pytest.raises(SDAError, match="no power"):
        await collect(response.async_response_gen())


# test_streaming_history.py


@pytest.mark.parametrize("way", WAYS)
async def test_thoughts_stay_out_of_what_a_chat_engine_says(scripted, way):
    llm = scripted("<think>A poet.</think>Goethe did.", chat_template=THINKING)
    engine = chat_engine(SimpleChatEngine, llm)
    assert await said(engine, way, "Who wrote Faust?") == "Goethe did."
    assert engine.chat_history[-1].content == "Goethe did."
    await said(engine, way, "Sure?")
    assert "A poet." not in last_prompt(llm)


# --- tests/response_synthesizers --------------------------------------------------------------------------------------

NODES = [NodeWithScore(node=TextNode(text=f"context information{number}")) for number in (1, 2)]
EACH_WORD = PromptHelper(context_window=4096, num_output=0, chunk_overlap_ratio=0, chunk_size_limit=3)
LONG_NODES = [NodeWithScore(node=TextNode(text="information " * 18)) for _ in range(2)]
A_NODE = PromptHelper(context_window=4096, num_output=0, chunk_overlap_ratio=0, chunk_size_limit=24)


@pytest.fixture(params=["sync", "stream", "async", "astream"] if ALL else ["sync", "astream"])
def way(request):
    return request.param


async def synthesized(synthesizer_cls, way, nodes=NODES, **settings):
    """What a synthesizer makes of some nodes, in any of its four ways."""
    synthesizer = synthesizer_cls(streaming="stream" in way, **settings)
    if way in ("sync", "stream"):
        response = synthesizer.synthesize("test", nodes=nodes)
        return "".join(response.response_gen) if way == "stream" and hasattr(response, "response_gen") else response
    response = await synthesizer.asynthesize("test", nodes=nodes)
    if way == "astream" and hasattr(response, "async_response_gen"):
        return "".join(await collect(response.async_response_gen()))
    return response


# test_generate.py, test_simple_summarize.py


async def test_generation_answers_without_nodes(scripted, way):
    llm = scripted(ANSWER)
    assert str(await synthesized(Generation, way, nodes=[], llm=llm)) == ANSWER
    assert last_prompt(llm) == "test"


async def test_a_simple_summary_shows_all_nodes_at_once(scripted, way):
    llm = scripted(ANSWER)
    assert str(await synthesized(SimpleSummarize, way, llm=llm)) == ANSWER
    assert roles(llm) == ["system", "user"]
    assert all(node.text in last_prompt(llm) for node in NODES)


# test_refine.py, test_compact_and_refine.py


async def test_an_answer_is_refined_node_by_node(scripted, way):
    llm = scripted("First.", "Second.")
    assert str(await synthesized(Refine, way, llm=llm)) == "Second."
    first, second = map(text_of, requests_of(llm))
    assert "context information1" in first
    assert "context information2" in second
    assert "Original Answer: First." in second


def refined(satisfied, answer):
    return call_text("StructuredRefineResponse", {"query_satisfied": satisfied, "answer": answer})


async def test_only_answers_that_satisfy_the_query_count(scripted, way):
    llm = scripted(refined(False, "Never."), refined(True, "Nine."), refined(False, "Never."))
    nodes = [*NODES, NodeWithScore(node=TextNode(text="information3"))]
    response = await synthesized(Refine, way, nodes=nodes, llm=llm, structured_answer_filtering=True)
    assert str(response) == "Nine."
    assert "Original Answer: Nine." in last_prompt(llm)
    assert "Never." not in last_prompt(llm)


async def test_there_is_no_answer_where_none_satisfies_the_query(scripted, way):
    llm = scripted(refined(False, "Never."))
    response = await synthesized(Refine, way, llm=llm, structured_answer_filtering=True)
    assert str(response) == "Empty Response"
    assert "Original Answer" not in last_prompt(llm)


@pytest.mark.parametrize("kind", [Refine, CompactAndRefine])
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_an_answer_may_be_an_object(scripted, kind, way):
    llm = scripted('{"total": 1, "sure": false}', '{"total": 2, "sure": true}')
    response = await synthesized(kind, way, llm=llm, output_cls=Sum)
    assert isinstance(response, PydanticResponse)
    assert response.response == (Sum(total=2, sure=True) if kind is Refine else Sum(total=1, sure=False))


async def test_nodes_are_packed_together_or_split_to_fit(scripted, way):
    llm = scripted("One.", "Two.", "Three.", "Four.")
    assert str(await synthesized(CompactAndRefine, way, llm=llm)) == "One."
    assert "context information1\n\ncontext information2" in last_prompt(llm)
    response = await synthesized(CompactAndRefine, way, llm=llm, prompt_helper=EACH_WORD)
    assert str(response) == "Four."
    assert len(requests_of(llm)) == 4
    assert "Original Answer: Three." in last_prompt(llm)


# test_accumulate.py, test_compact_and_accumulate.py


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("kind", "expected"), [(Accumulate, 2), (CompactAndAccumulate, 1)])
async def test_answers_are_accumulated(scripted, kind, expected, way):
    response = await synthesized(kind, way, llm=scripted("Nine."))
    assert str(response).split("\n---------------------\n") == [f"Response {n + 1}: Nine." for n in range(expected)]


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("kind", [Accumulate, CompactAndAccumulate])
async def test_accumulated_answers_cannot_be_streamed(scripted, kind, way):
    llm = scripted("Nine.")
    with pytest.raises(ValueError, match="Unable to stream"):
        await synthesized(kind, way, llm=llm)
    assert not requests_of(llm)


# test_tree_summarize.py


async def test_summaries_are_summarized(scripted, way):
    llm = scripted("Leaf.", "Leaf.", "Root.")
    assert str(await synthesized(TreeSummarize, way, nodes=LONG_NODES, llm=llm, prompt_helper=A_NODE)) == "Root."
    assert "Leaf.\n\nLeaf." in last_prompt(llm)
    assert ["information information" in text_of(request) for request in requests_of(llm)] == [True, True, False]


def test_leaves_are_summarized_at_once_where_asked(scripted_here):
    llm = scripted_here("Leaf.", alignment="honesty", evaluator=Meeting())
    synthesizer = TreeSummarize(llm=llm, use_async=True, prompt_helper=A_NODE)
    assert str(synthesizer.synthesize("test", nodes=LONG_NODES)) == "Leaf."
    assert len(requests_of(llm)) == 3


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_summary_may_be_an_object(scripted, way):
    llm = scripted('{"total": 1, "sure": false}', '{"total": 1, "sure": false}', '{"total": 2, "sure": true}')
    response = await synthesized(TreeSummarize, way, nodes=LONG_NODES, llm=llm, output_cls=Sum, prompt_helper=A_NODE)
    assert isinstance(response, PydanticResponse)
    assert response.response == Sum(total=2, sure=True)
    assert '{"total":1,"sure":false}' in last_prompt(llm)


# test_factory_prompt_helper.py


def test_a_synthesizer_plans_with_the_context_window_of_the_model(scripted, monkeypatch):
    monkeypatch.setattr(Settings, "_prompt_helper", None)
    llm = scripted(ANSWER, context_window=1234, max_tokens=99)
    helper = get_response_synthesizer(llm=llm, response_mode=ResponseMode.COMPACT)._prompt_helper
    assert (helper.context_window, helper.num_output) == (1234, 99)
