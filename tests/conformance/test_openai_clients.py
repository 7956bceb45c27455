"""LangChain's ChatOpenAI and LlamaIndex's OpenAILike, as their packages have them, over the real server."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ThinkingBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

from sda_engine.testing import CHAT_TEMPLATE, ScriptedEngine, call_text, tiny_engine
from tests.servers import serving

# llama-index-workflows reads all attributes of an agent, and llama-index-core asks whether a step runs
pytestmark = [
    pytest.mark.usefixtures("no_event_loop_is_left_behind"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

KEY = "a-key-of-clients"
MODEL = "served"
THINKING = CHAT_TEMPLATE + "{# <think> #}"
ANSWER = "Goethe wrote Faust."
ASKED = [ChatMessage(role="user", content="Who wrote Faust?")]
STEERED: dict[str, Any] = {"sda": {"alignment": "empathy", "gain": 2.5, "amplification": 0.5}}
ALBUM = {"title": "Faust", "songs": ["Sun", "Sky"]}


class Album(BaseModel):
    """A record."""

    title: str
    songs: list[str] = Field(min_length=1)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Served:
    """An engine behind a server, and clients of it that know its address and a key."""

    def __init__(self, engine: Any, url: str, clients: list[Any]) -> None:
        self.engine = engine
        self._url = f"{url}/v1"
        self._clients = clients

    @property
    def asked(self) -> Any:
        """The last request."""
        return self.engine.requests[-1]

    def langchain(self, model: str = MODEL, **fields: Any) -> ChatOpenAI:
        chat = ChatOpenAI(base_url=self._url, api_key=KEY, model=model, **fields)
        self._clients += [chat.root_client, chat.root_async_client]
        return chat

    def llama_index(self, model: str = MODEL, *, is_chat_model: bool = True, **fields: Any) -> OpenAILike:
        llm = OpenAILike(
            api_base=self._url,
            api_key=KEY,
            model=model,
            is_chat_model=is_chat_model,
            is_function_calling_model=is_chat_model,
            context_window=self.engine.context_window,
            **fields,
        )
        self._clients += [llm._get_client(), llm._get_aclient()]
        return llm


@pytest.fixture
async def clients() -> AsyncIterator[list[Any]]:
    """Clients of the openai SDK, which are closed at the end: in the loop in which they were used."""
    made: list[Any] = []
    yield made
    for client in made:
        if isinstance(client, openai.AsyncOpenAI):
            await client.close()
        else:
            client.close()


@pytest.fixture
def served(clients: list[Any]) -> Iterator[Callable[..., Served]]:
    """Makes servers that answer by a script, or by a tiny random model where there is none."""
    with ExitStack() as stack:

        def make(*script: Any, chat_template: str = CHAT_TEMPLATE) -> Served:
            engine = ScriptedEngine(script, chat_template=chat_template) if script else tiny_engine()
            stack.enter_context(engine)
            return Served(
                engine, stack.enter_context(serving(engine, api_keys=(KEY,), served_model_name=MODEL)), clients
            )

        yield make


# --- ChatOpenAI -------------------------------------------------------------------------------------------------------


async def test_langchain_is_answered_whole_and_in_streams_and_told_the_usage(served) -> None:
    server = served(ANSWER)
    chat = server.langchain(stream_usage=True)
    whole, later = chat.invoke("Who wrote Faust?"), await chat.ainvoke("Who wrote Faust?")
    assert whole.content == later.content == ANSWER
    assert whole.usage_metadata["output_tokens"] == later.usage_metadata["output_tokens"] > 1
    assert later.usage_metadata["input_token_details"]["cache_read"] > 0
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["model_name"] == MODEL
    for chunks in (
        list(chat.stream("Who wrote Faust?")),
        [chunk async for chunk in chat.astream("Who wrote Faust?")],
    ):
        summed = sum(chunks[1:], chunks[0])
        assert summed.content == ANSWER
        assert summed.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
        assert summed.response_metadata["finish_reason"] == "stop"
        assert len(chunks) > 3


def test_langchain_steers_by_an_alias_or_by_extra_body(served) -> None:
    server = served(ANSWER)
    assert server.langchain(f"{MODEL}:honesty").invoke("Who?").content == ANSWER
    assert server.asked.alignment.name == "honesty"
    server.langchain(extra_body=STEERED).invoke("Who?")
    asked = server.asked
    assert (asked.alignment.name, asked.steering.gain, asked.steering.amplification) == ("empathy", 2.5, 0.5)
    server.langchain(temperature=0.25, top_p=0.5, seed=7, max_tokens=9, stop=["Faust"]).invoke("Who?")
    sampling = server.asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_new_tokens) == (0.25, 0.5, 7, 9)
    assert server.asked.alignment is None


def test_langchain_is_told_log_probabilities(served) -> None:
    chat = served().langchain(logprobs=True, top_logprobs=2, temperature=0, max_tokens=5)
    whole = chat.invoke("Who?")
    places = whole.response_metadata["logprobs"]["content"]
    assert "".join(place["token"] for place in places).startswith(whole.content)
    assert {len(place["top_logprobs"]) for place in places} == {2}
    streamed = [chunk.response_metadata.get("logprobs") for chunk in chat.stream("Who?")]
    told = [place["token"] for one in streamed if one for place in one["content"]]
    assert told == [place["token"] for place in places]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_langchain_binds_are_called(served, stream) -> None:
    server = served(call_text("add", {"a": 1, "b": 2}) + "\n" + call_text("add", {"a": 3, "b": 4}))
    chat = server.langchain().bind_tools([add], tool_choice="any", parallel_tool_calls=True, strict=True)
    if stream:
        chunks = list(chat.stream("Add."))
        message = sum(chunks[1:], chunks[0])
    else:
        message = chat.invoke("Add.")
    assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert len({call["id"] for call in message.tool_calls}) == 2
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert server.asked.output.tool_choice == "required"


def test_an_agent_of_langchain_calls_its_tool_and_answers(served) -> None:
    server = served(call_text("add", {"a": 5, "b": 3}), "It is 8.")
    agent = create_agent(server.langchain(), [add], system_prompt="Be brief.")
    last = agent.invoke({"messages": [{"role": "user", "content": "What is 5 + 3?"}]})["messages"][-1]
    assert last.content == "It is 8."
    assert [message["role"] for message in server.asked.messages] == ["system", "user", "assistant", "tool"]
    assert server.asked.messages[-1]["content"] == "8"


# It writes parsed objects out under a type that has none, whichever server they come from
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(
    ("method", "script"),
    [
        ("json_schema", json.dumps(ALBUM)),
        ("json_mode", json.dumps(ALBUM)),
        ("function_calling", call_text("Album", ALBUM)),
    ],
    ids=["json_schema", "json_mode", "function_calling"],
)
async def test_langchain_gets_objects_by_every_method(served, method, script) -> None:
    chat = served(script).langchain().with_structured_output(Album, method=method)
    assert chat.invoke("An album as JSON.") == Album(**ALBUM)
    assert await chat.ainvoke("An album as JSON.") == Album(**ALBUM)
    assert list(chat.stream("An album as JSON."))[-1] == Album(**ALBUM)


def test_langchain_raises_what_the_server_refuses_by_the_name_of_the_field(served) -> None:
    server = served(ANSWER)
    with pytest.raises(openai.BadRequestError, match="penalties") as caught:
        server.langchain(frequency_penalty=0.5).invoke("Who?")
    assert caught.value.param == "frequency_penalty"
    with pytest.raises(openai.NotFoundError, match=f"{MODEL}:honesty"):
        server.langchain("another").invoke("Who?")
    assert not server.engine.requests


# --- OpenAILike -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chat_model", [True, False])
async def test_llama_index_is_answered_by_chats_and_by_completions(served, is_chat_model) -> None:
    server = served(ANSWER)
    llm = server.llama_index(is_chat_model=is_chat_model)
    assert [llm.chat(ASKED).message.content, (await llm.achat(ASKED)).message.content] == [ANSWER, ANSWER]
    assert [llm.complete("Who?").text, (await llm.acomplete("Who?")).text] == [ANSWER, ANSWER]
    assert llm.complete("Who?").additional_kwargs["completion_tokens"] > 1
    for chunks in (
        list(llm.stream_chat(ASKED)),
        [chunk async for chunk in await llm.astream_chat(ASKED)],
        list(llm.stream_complete("Who?")),
        [chunk async for chunk in await llm.astream_complete("Who?")],
    ):
        assert "".join(chunk.delta for chunk in chunks) == ANSWER
        assert len(chunks) > 3
    assert {request.messages[-1]["role"] for request in server.engine.requests} == {"user"}


@pytest.mark.parametrize("is_chat_model", [True, False])
def test_llama_index_steers_by_an_alias_or_by_additional_kwargs(served, is_chat_model) -> None:
    server = served(ANSWER)
    server.llama_index(f"{MODEL}:honesty", is_chat_model=is_chat_model).complete("Who?")
    assert server.asked.alignment.name == "honesty"
    llm = server.llama_index(is_chat_model=is_chat_model, additional_kwargs={"extra_body": STEERED}, max_tokens=9)
    response = llm.complete("Who?")
    assert (server.asked.alignment.name, server.asked.steering.gain) == ("empathy", 2.5)
    assert response.raw.sda["strength"] == 1.25
    list(llm.stream_complete("Who?"))
    assert (server.asked.steering.amplification, server.asked.sampling.max_new_tokens) == (0.5, 9)


@pytest.mark.parametrize("is_chat_model", [True, False])
def test_llama_index_is_told_log_probabilities(served, is_chat_model) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, "temperature": 0, "max_tokens": 5}
    llm = served().llama_index(is_chat_model=is_chat_model, **asked)
    response = llm.chat(ASKED) if is_chat_model else llm.complete("Who?")
    assert len(response.logprobs) == 5
    assert {len(place) for place in response.logprobs} == {2}


async def test_llama_index_is_told_thoughts_apart_from_the_answer(served) -> None:
    llm = served(f"<think>A poet.</think>{ANSWER}", chat_template=THINKING).llama_index()
    for message in (llm.chat(ASKED).message, list(llm.stream_chat(ASKED))[-1].message):
        assert message.content == ANSWER
        assert [block.content for block in message.blocks if isinstance(block, ThinkingBlock)] == ["A poet."]


async def test_tools_of_llama_index_are_called_in_all_ways(served) -> None:
    tool, call = FunctionTool.from_defaults(add), call_text("add", {"a": 5, "b": 3})
    server = served(call)
    llm = server.llama_index()
    assert llm.predict_and_call([tool], user_msg="Add.").sources[0].raw_output == 8
    assert (await llm.apredict_and_call([tool], user_msg="Add.")).sources[0].raw_output == 8
    responses = [
        llm.chat_with_tools([tool], user_msg="Add.", tool_required=True),
        list(llm.stream_chat_with_tools([tool], user_msg="Add."))[-1],
        [chunk async for chunk in await llm.astream_chat_with_tools([tool], user_msg="Add.")][-1],
    ]
    for response in responses:
        (found,) = llm.get_tool_calls_from_response(response)
        assert (found.tool_name, found.tool_kwargs) == ("add", {"a": 5, "b": 3})
    assert server.engine.requests[2].output.tool_choice == "required"


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_of_llama_index_calls_its_tool_and_answers(served, streaming) -> None:
    server = served(call_text("add", {"a": 5, "b": 3}), "It is 8.")
    agent = FunctionAgent(llm=server.llama_index(), tools=[add], streaming=streaming, system_prompt="Be brief.")
    assert str(await agent.run("What is 5 + 3?")) == "It is 8."
    assert [message["role"] for message in server.asked.messages] == ["system", "user", "assistant", "tool"]


async def test_llama_index_gets_objects_by_a_call_and_by_a_schema(served) -> None:
    server = served(call_text("Album", ALBUM))
    prompt = PromptTemplate("An album about {topic}.")
    llm = server.llama_index()
    assert llm.structured_predict(Album, prompt, topic="poems") == Album(**ALBUM)
    assert await llm.astructured_predict(Album, prompt, topic="poems") == Album(**ALBUM)
    assert list(llm.stream_structured_predict(Album, prompt, topic="poems"))[-1] == Album(**ALBUM)
    schema = {"name": "album", "strict": True, "schema": Album.model_json_schema()}
    by_schema = served(json.dumps(ALBUM)).llama_index()
    response = by_schema.chat(ASKED, response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(response.message.content) == ALBUM
