"""The alignment of one call, by every way to give it and every way into the model."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langgraph.graph import END, START, StateGraph

from sda_engine import Alignment, Steering
from sda_engine.errors import ConfigError
from sda_integrations.langchain import ChatSDA, SDAMiddleware

Given = Alignment | str | None
LIBRARIAN = Alignment(instruction="Answer as a careful librarian.", name="librarian")
SCHEMA = {"title": "Place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = {"messages": [("human", "Which weather?")]}
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # the v3 event stream


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def configured(alignment: Given) -> dict[str, Any]:
    return {"configurable": {"sda_alignment": alignment}}


def names(engine) -> list[str | None]:
    """The alignment of each request that the engine got."""
    return [call.alignment and call.alignment.name for call in engine.calls]


@pytest.fixture
def engine(make_engine, played):
    """Plays an answer that is valid as text, as JSON by SCHEMA and, with tools, as no call."""
    return make_engine(completion=replace(played, text='{"city": "Oslo"}'))


# --- Every way into a model ---

V3 = ["stream_events v3", "astream_events v3"]  # of the model and its bindings alone
OF_ANY = ["invoke", "ainvoke", "stream", "astream", "batch", "abatch", "batch_as_completed", "abatch_as_completed"]
OF_ANY += ["transform", "astream_events v2"]


async def enter(entry: str, model: Any, config: Any = None, **keywords: Any) -> None:
    """Ask the model once, by one of its public methods."""
    name, _, version = entry.partition(" v")
    method = getattr(model, name)
    if "batch" in name:
        asked = method(["Hi"], [config], **keywords)
    elif version:
        asked = method("Hi", config, version=f"v{version}", **keywords)
    else:
        asked = method(iter(["Hi"]) if name == "transform" else "Hi", config, **keywords)
    if isinstance(asked, Awaitable):
        asked = await asked
    if version == "3":
        assert (await asked.output if name == "astream_events" else asked.output).text
    elif isinstance(asked, AsyncIterator):
        assert [part async for part in asked]
    else:
        assert list(asked)


def routes(ways: Iterable[str], entries: Sequence[str], *, thoroughly: str) -> list[tuple[str, str]]:
    """Each way by a call and by a stream, and one way by every entry: what a way does, it does before the entry."""
    return [
        (way, entry)
        for way in ways
        for entry in entries
        if way == thoroughly or entry in ("invoke", "astream", "abatch")
    ]


# --- Every way to give an alignment: the runnable, its config and its keywords ---

Way = Callable[[ChatSDA, Given], tuple[Any, dict[str, Any] | None, dict[str, Any]]]


def by(change: Callable[[ChatSDA, Given], Any]) -> Way:
    """It is in the runnable."""
    return lambda chat, given: (change(chat, given), None, {})


def by_config(change: Callable[[ChatSDA], Any] = lambda chat: chat) -> Way:
    """It is in the config of the call."""
    return lambda chat, given: (change(chat), configured(given), {})


WAYS: dict[str, Way] = {
    "field": by(lambda chat, given: chat.model_copy(update={"alignment": given})),
    "keyword": lambda chat, given: (chat, None, {"alignment": given}),
    "bind": by(lambda chat, given: chat.bind(alignment=given)),
    "bind, bind": by(lambda chat, given: chat.bind(alignment=given).bind(gain=1.0)),
    "bind, bind_tools": by(lambda chat, given: chat.bind(alignment=given).bind_tools([weather])),
    "bind_tools": by(lambda chat, given: chat.bind_tools([weather], alignment=given)),
    "bind_tools, bind": by(lambda chat, given: chat.bind_tools([weather]).bind(alignment=given)),
    "config": by_config(),
    "config of bind": by_config(lambda chat: chat.bind(gain=1.0)),
    "config of bind_tools": by_config(lambda chat: chat.bind_tools([weather])),
    "with_config": by(lambda chat, given: chat.with_config(configured(given))),
    "with_config, bind": by(lambda chat, given: chat.with_config(configured(given)).bind(gain=1.0)),
    "bind, with_config, bind_tools": by(
        lambda chat, given: chat.bind(gain=1.0).with_config(configured(given)).bind_tools([weather])
    ),
    "bind_tools, with_config": by(lambda chat, given: chat.bind_tools([weather]).with_config(configured(given))),
}
WITH_SCHEMA: dict[str, Way] = {
    "bind before": by(lambda chat, given: chat.bind(alignment=given).with_structured_output(SCHEMA)),
    "bind before, include_raw": by(
        lambda chat, given: chat.bind(alignment=given).with_structured_output(SCHEMA, include_raw=True)
    ),
    "keyword": by(lambda chat, given: chat.with_structured_output(SCHEMA, alignment=given)),
    "config": by_config(lambda chat: chat.with_structured_output(SCHEMA)),
    "with_config after": by(lambda chat, given: chat.with_structured_output(SCHEMA).with_config(configured(given))),
    "bind, with_config before": by(
        lambda chat, given: chat.bind(gain=1.0).with_config(configured(given)).with_structured_output(SCHEMA)
    ),
}


async def ask(entry: str, way: Way, chat: ChatSDA, given: Given) -> None:
    model, config, keywords = way(chat, given)
    await enter(entry, model, config, **keywords)


@pytest.mark.parametrize(("way", "entry"), routes(WAYS, [*OF_ANY, *V3], thoroughly="bind, with_config, bind_tools"))
async def test_an_alignment_reaches_the_engine_by_every_way(way, entry, engine) -> None:
    chat = ChatSDA(engine=engine, alignment="honesty")
    for given, expected in [(LIBRARIAN, "librarian"), ("empathy", "empathy"), (None, None)]:
        engine.calls.clear()
        await ask(entry, WAYS[way], chat, given)
        await enter(entry, chat)
        assert names(engine) == [expected, "honesty"]  # and nothing of it is left for the next call


@pytest.mark.parametrize(("way", "entry"), routes(WITH_SCHEMA, OF_ANY, thoroughly="bind, with_config before"))
async def test_an_alignment_reaches_structured_output_by_every_way(way, entry, engine) -> None:
    chat = ChatSDA(engine=engine, alignment="honesty")
    for given, expected in [("empathy", "empathy"), (None, None)]:
        engine.calls.clear()
        await ask(entry, WITH_SCHEMA[way], chat, given)
        await enter(entry, chat.with_structured_output(SCHEMA))
        assert names(engine) == [expected, "honesty"]


# --- Chains and graphs, which hand their config down ---


class State(TypedDict):
    question: str
    answer: str


def in_a_graph(chat: ChatSDA) -> Runnable:
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"answer": chat.invoke(state["question"]).text})
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return RunnableLambda(lambda text: {"question": text, "answer": ""}) | graph.compile()


NESTED: dict[str, Callable[[ChatSDA], Runnable]] = {
    "chain": lambda chat: ChatPromptTemplate.from_messages([("human", "{question}")]) | chat,
    "parallel": lambda chat: RunnableParallel(one=chat),
    "function without a config": lambda chat: RunnableLambda(lambda text: chat.invoke(text)),
    "function that binds": lambda chat: RunnableLambda(lambda text: chat.bind_tools([weather]).invoke(text)),
    "chain of bind_tools": lambda chat: RunnableLambda(str) | chat.bind_tools([weather]),
    "fallbacks": lambda chat: chat.with_fallbacks([chat]),
    "retry": lambda chat: chat.with_retry(),
    "graph": in_a_graph,
}


@pytest.mark.parametrize(("nesting", "entry"), routes(NESTED, OF_ANY, thoroughly="chain of bind_tools"))
async def test_the_configs_alignment_reaches_a_model_inside(nesting, entry, engine) -> None:
    runnable = NESTED[nesting](ChatSDA(engine=engine, alignment="honesty"))
    for config in (configured("empathy"), None, configured(None)):
        await enter(entry, runnable, config)
    assert names(engine) == ["empathy", "honesty", None]


@pytest.mark.parametrize("nesting", NESTED)
async def test_with_config_on_the_outside_reaches_a_model_inside(nesting, engine) -> None:
    runnable = NESTED[nesting](ChatSDA(engine=engine)).with_config(configured("empathy"))
    runnable.invoke("Hi")
    await runnable.ainvoke("Hi")
    assert names(engine) == ["empathy", "empathy"]


async def test_each_entry_of_a_batch_has_its_own_config(engine) -> None:
    chat = ChatSDA(engine=engine)
    configs = [configured("empathy"), configured("honesty"), {}]
    chat.batch(["0", "1", "2"], configs)
    await chat.abatch(["0", "1", "2"], configs)
    asked = sorted((call.messages[0]["content"], call.alignment and call.alignment.name) for call in engine.calls)
    assert asked == [("0", "empathy")] * 2 + [("1", "honesty")] * 2 + [("2", None)] * 2


LATER = {
    "bind_tools": lambda model: model.bind_tools([weather]).invoke("Hi"),
    "with_structured_output": lambda model: model.with_structured_output(SCHEMA).invoke("Hi"),
    "create_agent": lambda model: create_agent(model, [weather]).invoke(QUESTION),
}


@pytest.mark.parametrize("later", LATER)
def test_with_config_on_the_model_itself_survives_what_is_bound_later(later, engine) -> None:
    LATER[later](ChatSDA(engine=engine).with_config(configured("empathy")))
    assert names(engine) == ["empathy"]


# --- What counts where several are given, and what else sees it ---


@pytest.mark.parametrize("entry", [*OF_ANY, *V3])
async def test_the_keyword_counts_before_the_config_and_the_config_before_the_field(entry, engine) -> None:
    chat = ChatSDA(engine=engine, alignment="honesty")
    await enter(entry, chat, configured("empathy"), alignment="harmlessness")
    await enter(entry, chat.bind(alignment="harmlessness"), configured("empathy"))
    await enter(entry, chat.bind(alignment="helpfulness"), configured("empathy"), alignment=None)
    await enter(entry, chat.with_config(configured("harmlessness")), configured("empathy"))
    await enter(entry, chat, {})
    assert names(engine) == ["harmlessness", "harmlessness", None, "empathy", "honesty"]


def test_what_is_given_to_bind_tools_counts_before_what_was_bound(engine) -> None:
    ChatSDA(engine=engine).bind(alignment="empathy", gain=1.0).bind_tools([weather], alignment="honesty").invoke("Hi")
    assert names(engine) == ["honesty"]
    assert engine.calls[0].steering.gain == 1.0


@pytest.mark.parametrize("entry", [*OF_ANY, *V3])
async def test_a_misspelt_entry_of_the_config_is_refused(entry, engine) -> None:
    with pytest.raises(ConfigError, match=r"no key 'sda_aligment'. Did you mean 'sda_alignment'\?"):
        await enter(entry, ChatSDA(engine=engine), {"configurable": {"sda_aligment": "honesty"}})
    assert engine.calls == []


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, *, invocation_params: Any, **_: Any) -> None:
        self.seen.append(invocation_params["alignment"] and invocation_params["alignment"]["name"])


@pytest.mark.parametrize(
    ("way", "entry"),
    routes(["keyword", "bind_tools", "config", "with_config", "field"], [*OF_ANY, *V3], thoroughly="keyword"),
)
async def test_callbacks_see_the_alignment_of_the_call(way, entry, engine) -> None:
    recorder = Recorder()
    chat = ChatSDA(engine=engine, alignment="honesty", callbacks=[recorder])
    await ask(entry, WAYS[way], chat, "empathy")
    await ask(entry, WAYS[way], chat, None)
    assert recorder.seen == ["empathy", None]


@pytest.mark.parametrize("entry", ["invoke", "ainvoke", "batch", "abatch"])
async def test_one_alignment_is_one_cached_answer_however_it_is_given(entry, engine) -> None:
    chat = ChatSDA(engine=engine, cache=InMemoryCache())
    one_tool = ["bind, bind_tools", "bind_tools", "config of bind_tools"]
    for ways in (["keyword", "bind", "config", "with_config", "field"], one_tool):
        for given in ("empathy", "honesty", None):
            for way in ways:
                await ask(entry, WAYS[way], chat, given)
    assert names(engine) == ["empathy", "honesty", None] * 2


# --- Agents ---


@dataclass
class Reader:
    """An agent's runtime context."""

    wish: Given


@pytest.fixture
def agent_engine(make_engine, make_call):
    """Calls the weather tool once, then answers."""
    return make_engine(script=[make_call("weather", city="Oslo")])


AGENTS: dict[str, Callable[[ChatSDA], tuple[Any, dict[str, Any]]]] = {
    "field": lambda chat: (create_agent(chat.model_copy(update={"alignment": "empathy"}), [weather]), {}),
    "config": lambda chat: (create_agent(chat, [weather]), {"config": configured("empathy")}),
    "bind": lambda chat: (create_agent(chat.bind(alignment="empathy"), [weather]), {}),
    "middleware": lambda chat: (create_agent(chat, [weather], middleware=[SDAMiddleware("empathy")]), {}),
    "middleware over a config": lambda chat: (
        create_agent(chat, [weather], middleware=[SDAMiddleware("empathy")]),
        {"config": configured("harmlessness")},
    ),
    "middleware with a function": lambda chat: (
        create_agent(
            chat,
            [weather],
            middleware=[SDAMiddleware(lambda request: request.runtime.context.wish)],
            context_schema=Reader,
        ),
        {"context": Reader("empathy")},
    ),
}


@pytest.mark.parametrize("way", AGENTS)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_agents_model_calls_all_have_the_alignment(way, is_async, agent_engine) -> None:
    agent, keywords = AGENTS[way](ChatSDA(engine=agent_engine, alignment="honesty"))
    state = await agent.ainvoke(QUESTION, **keywords) if is_async else agent.invoke(QUESTION, **keywords)
    assert names(agent_engine) == ["empathy", "empathy"]
    assert [tool.name for tool in agent_engine.calls[1].output.tools] == ["weather"]
    assert agent_engine.calls[1].messages[-1]["content"] == "rain in Oslo"
    assert state["messages"][-1].text == agent_engine.completion.text


@pytest.mark.parametrize("mode", ["messages", "updates"])
async def test_a_streaming_agent_has_the_alignment(mode, agent_engine) -> None:
    agent = create_agent(ChatSDA(engine=agent_engine), [weather])
    parts = [part async for part in agent.astream(QUESTION, configured("empathy"), stream_mode=mode)]
    assert "is round." in repr(parts)
    assert names(agent_engine) == ["empathy", "empathy"]


def test_an_agent_without_tools_keeps_what_was_bound(engine) -> None:
    create_agent(ChatSDA(engine=engine).bind(alignment="empathy"), []).invoke(QUESTION)
    assert names(engine) == ["empathy"]


def test_an_agents_response_format_and_alignment_go_together(engine) -> None:
    agent = create_agent(ChatSDA(engine=engine), [], response_format=SCHEMA, middleware=[SDAMiddleware("empathy")])
    assert agent.invoke(QUESTION)["structured_response"] == {"city": "Oslo"}
    assert names(engine) == ["empathy"]
    assert engine.calls[0].output.constraint.kind == "json_schema"


def test_a_function_of_the_request_chooses_for_each_call_and_none_is_plain(make_engine, make_call) -> None:
    engine = make_engine(script=[make_call("weather", city="Oslo")])
    choices = iter([LIBRARIAN, None])
    middleware = SDAMiddleware(lambda _: next(choices), gain=7.0, temperature=0.0)
    create_agent(ChatSDA(engine=engine, alignment="honesty"), [weather], middleware=[middleware]).invoke(QUESTION)
    assert names(engine) == ["librarian", None]
    assert [call.steering for call in engine.calls] == [Steering(gain=7.0), Steering()]
    assert {call.sampling.temperature for call in engine.calls} == {0.0}


def test_two_runs_of_one_agent_with_different_users_do_not_mix(agent_engine) -> None:
    agent, _ = AGENTS["middleware with a function"](ChatSDA(engine=agent_engine, alignment="honesty"))
    for wish in ("empathy", None, "harmlessness"):
        agent.invoke(QUESTION, context=Reader(wish))
    assert names(agent_engine) == ["empathy", "empathy", None, "harmlessness"]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("honesty",), {"gian": 3.0}, r"SDAMiddleware has no call keyword 'gian'. Did you mean 'gain'\?"),
        (("honesty",), {"gain": -1}, "gain cannot be -1"),
        ((3,), {}, "alignment cannot be 3"),
        (("honesty",), {"output": None}, "the form of answers from the agent"),
        ((lambda _: "honesty",), {"temperature": "hot"}, "temperature cannot be 'hot'"),
    ],
)
def test_middleware_refuses_wrong_settings_at_construction(arguments, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SDAMiddleware(*arguments, **settings)
