"""Requests through ChatSDA, over an engine that plays a fixed answer."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

from sda_engine import Alignment, Sampling, Steering, Usage
from sda_engine.errors import ConfigError, EvaluationError, MessageError, RequestTimeoutError
from sda_engine.evaluators import FixedScore
from sda_integrations.langchain import ChatSDA

QUESTION = [("system", "Be brief."), ("human", "Is the earth flat?")]
ANSWER = "The earth is round."
ROUTES = ["generate", "agenerate", "stream", "astream"]


async def ask(route: str, chat: ChatSDA, question: Any = QUESTION, **keywords: Any) -> AIMessage:
    """The answer by one of the four routes, streams joined."""
    if route == "generate":
        return chat.invoke(question, **keywords)
    if route == "agenerate":
        return await chat.ainvoke(question, **keywords)
    if route == "stream":
        chunks = list(chat.stream(question, **keywords))
    else:
        chunks = [chunk async for chunk in chat.astream(question, **keywords)]
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined = joined + chunk
    return joined


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_gives_the_same_answer_usage_and_metadata(route, engine) -> None:
    answer = await ask(route, ChatSDA(engine=engine), logprobs=True)
    assert answer.content == ANSWER
    assert answer.usage_metadata == {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11}
    metadata = answer.response_metadata
    assert metadata["model_name"] == "fake-model"
    assert metadata["model_provider"] == "sda"
    assert metadata["finish_reason"] == "stop"
    assert metadata["sda"] == engine.completion.sda_metadata()
    assert len(metadata["logprobs"]["content"]) == 3


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_asks_the_engine_natively_and_for_the_same(route, engine) -> None:
    await ask(route, ChatSDA(engine=engine, alignment="honesty", gain=3.0, temperature=0, timeout=9))
    (call,) = engine.calls
    assert call.method == route
    assert call.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is the earth flat?"},
    ]
    assert isinstance(call.alignment, Alignment)
    assert call.alignment.name == "honesty"
    assert call.steering == Steering(gain=3.0)
    assert call.sampling == Sampling(temperature=0)
    assert call.timeout == 9


@pytest.mark.parametrize("rated", [{"evaluator": FixedScore(20)}, {"amplification": 0.25}])
@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_honours_every_call_keyword(route, rated, engine) -> None:
    chat = ChatSDA(engine=engine, alignment="honesty", temperature=1.0, stop=["never"], seed=1)
    await ask(
        route,
        chat,
        alignment="Answer as a careful librarian.",
        gain=4.0,
        **rated,
        steering=Steering(plausibility=0.1, gain=1.0),
        temperature=0.2,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        max_tokens=11,
        stop=["END"],
        seed=5,
        timeout=3.0,
        logprobs=True,
        top_logprobs=2,
    )
    (call,) = engine.calls
    assert call.alignment == Alignment(instruction="Answer as a careful librarian.")
    assert call.steering == Steering(plausibility=0.1, gain=4.0, **rated)
    assert call.sampling == Sampling(
        temperature=0.2, top_p=0.5, top_k=7, min_p=0.1, max_new_tokens=11, stop=["END"], seed=5, logprobs=2
    )
    assert call.timeout == 3.0


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_refuses_an_unknown_keyword_with_a_hint(route, engine) -> None:
    with pytest.raises(ConfigError, match=r"no call keyword 'max_token'. Did you mean 'max_tokens'\?"):
        await ask(route, ChatSDA(engine=engine), max_token=5)
    assert engine.calls == []


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_refuses_a_value_out_of_range(route, engine) -> None:
    with pytest.raises(ConfigError, match="top_p cannot be 2"):
        await ask(route, ChatSDA(engine=engine), top_p=2)
    assert engine.calls == []


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("error", [EvaluationError("no score", base_response="x"), RequestTimeoutError("too late")])
async def test_every_route_lets_the_engines_errors_through_unchanged(route, error, make_engine) -> None:
    with pytest.raises(type(error)) as raised:
        await ask(route, ChatSDA(engine=make_engine(error=error)))
    assert raised.value is error


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_hands_pictures_on(route, engine) -> None:
    picture = HumanMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}])
    await ask(route, ChatSDA(engine=engine), [picture])
    content = [{"type": "image", "image": "data:image/png;base64,AAAA"}]
    assert engine.calls[0].messages == [{"role": "user", "content": content}]


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_refuses_pictures_for_a_model_that_reads_text_only(route, tiny) -> None:
    chat = ChatSDA(engine=tiny)
    assert (chat.profile["image_inputs"], chat.profile["image_tool_message"]) == (False, False)
    with pytest.raises(MessageError, match="reads text only"):
        await ask(route, chat, [HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.org"}}])])


def test_a_keyword_of_none_keeps_the_models_own_value(engine) -> None:
    chat = ChatSDA(engine=engine, gain=3.0, temperature=0.1, stop=["END"], timeout=5)
    chat.invoke("Hi", gain=None, temperature=None, stop=None, timeout=None, steering=None)
    assert engine.calls[0].steering.gain == 3.0
    assert engine.calls[0].sampling == Sampling(temperature=0.1, stop=["END"])
    assert engine.calls[0].timeout == 5


def test_an_empty_list_of_stop_strings_takes_the_models_own_away(engine) -> None:
    ChatSDA(engine=engine, stop=["END"]).invoke("Hi", stop=[])
    assert engine.calls[0].sampling.stop == ()


def test_without_an_alignment_the_answer_is_plain(engine) -> None:
    ChatSDA(engine=engine).invoke("Hi")
    assert engine.calls[0].alignment is None


def test_alignment_none_on_a_call_gives_a_plain_answer(engine) -> None:
    ChatSDA(engine=engine, alignment="honesty").invoke("Hi", alignment=None)
    assert engine.calls[0].alignment is None


def test_bind_fixes_the_alignment_of_every_call(engine) -> None:
    ChatSDA(engine=engine).bind(alignment="empathy", gain=1.0).invoke("Hi")
    assert engine.calls[0].alignment.name == "empathy"
    assert engine.calls[0].steering.gain == 1.0


def test_a_steering_object_on_a_call_replaces_the_models_own_and_its_fields(engine) -> None:
    chat = ChatSDA(engine=engine, gain=9.0, steering=Steering(plausibility=0.3))
    chat.invoke("Hi", steering=Steering(min_temperature=0.2))
    assert engine.calls[0].steering == Steering(min_temperature=0.2)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
    ],
)
def test_logprobs_and_top_logprobs_are_one_number_to_the_engine(keywords, expected, engine) -> None:
    ChatSDA(engine=engine).invoke("Hi", **keywords)
    ChatSDA(engine=engine, **keywords).invoke("Hi")
    assert [call.sampling.logprobs for call in engine.calls] == [expected, expected]


def test_a_call_can_switch_the_models_logprobs_off_and_on(engine) -> None:
    chat = ChatSDA(engine=engine, top_logprobs=4)
    chat.invoke("Hi", logprobs=False)
    chat.invoke("Hi", logprobs=True)
    assert [call.sampling.logprobs for call in engine.calls] == [None, 4]


def test_logprobs_come_as_openais_models_give_them(engine) -> None:
    answer = ChatSDA(engine=engine).invoke("Hi", top_logprobs=2)
    first, _, third = answer.response_metadata["logprobs"]["content"]
    assert first == {
        "token": "The",
        "logprob": -0.1,
        "bytes": [84, 104, 101],
        "top_logprobs": [
            {"token": "The", "logprob": -0.1, "bytes": [84, 104, 101]},
            {"token": "?", "logprob": -2.0, "bytes": [63]},
        ],
    }
    assert third["bytes"] is None


def test_without_logprobs_the_metadata_has_none(engine) -> None:
    assert "logprobs" not in ChatSDA(engine=engine).invoke("Hi").response_metadata


@pytest.mark.parametrize("route", ROUTES)
async def test_a_base_responses_tokens_count_as_output(route, make_engine, played) -> None:
    usage = Usage(prompt_tokens=7, completion_tokens=4, base_response_tokens=20)
    answer = await ask(route, ChatSDA(engine=make_engine(completion=replace(played, usage=usage))))
    assert answer.usage_metadata == {
        "input_tokens": 7,
        "output_tokens": 24,
        "total_tokens": 31,
        "output_token_details": {"base_response": 20},
    }


def test_a_stream_gives_each_text_as_it_comes_and_everything_else_with_the_last_chunk(engine) -> None:
    chunks = list(ChatSDA(engine=engine).stream("Hi"))
    assert [chunk.content for chunk in chunks] == ["The ", "earth ", "is round.", ""]
    assert [chunk.chunk_position for chunk in chunks] == [None, None, None, "last"]
    assert all(chunk.usage_metadata is None and not chunk.response_metadata for chunk in chunks[:-1])


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.texts: list[Any] = []

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.texts.append(token)


class AsyncTokens(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.texts: list[Any] = []

    async def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.texts.append(token)


def test_callbacks_hear_of_each_piece_once(engine) -> None:
    tokens = Tokens()
    list(ChatSDA(engine=engine).stream("Hi", config={"callbacks": [tokens]}))
    assert "".join(tokens.texts) == ANSWER


async def test_async_callbacks_hear_of_each_piece_once(engine) -> None:
    tokens = AsyncTokens()
    async for _ in ChatSDA(engine=engine).astream("Hi", config={"callbacks": [tokens]}):
        pass
    assert "".join(tokens.texts) == ANSWER


def test_invoke_streams_where_streaming_is_set(engine) -> None:
    tokens = Tokens()
    answer = ChatSDA(engine=engine, streaming=True).invoke("Hi", config={"callbacks": [tokens]})
    assert answer.content == ANSWER
    assert engine.calls[0].method == "stream"
    assert "".join(tokens.texts) == ANSWER


@pytest.mark.parametrize(("stream", "method"), [(True, "stream"), (False, "generate")])
def test_langchains_own_stream_keyword_is_known(stream, method, engine) -> None:
    ChatSDA(engine=engine).invoke("Hi", stream=stream)
    assert engine.calls[0].method == method


def test_closing_a_stream_early_closes_the_engines(engine) -> None:
    stream = ChatSDA(engine=engine).stream("Hi")
    assert next(stream).content == "The "
    stream.close()
    assert engine.closed == 1


async def test_closing_an_async_stream_early_closes_the_engines(engine) -> None:
    stream = ChatSDA(engine=engine).astream("Hi")
    assert (await anext(stream)).content == "The "
    await stream.aclose()
    await asyncio.sleep(0.01)  # LangChain leaves the inner generator to the event loop's clean-up
    assert engine.closed == 1


async def test_cancelling_a_task_reaches_the_engine(engine) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(*_: Any, **__: Any) -> None:
        entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    engine.agenerate = wait_for_ever
    task = asyncio.create_task(ChatSDA(engine=engine).ainvoke("Hi"))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


def test_a_batch_reaches_the_engine_at_once_so_that_it_can_decode_together(engine) -> None:
    together, answer = threading.Barrier(3, timeout=10), engine.generate

    def meet(*args: Any, **settings: Any) -> Any:
        together.wait()
        return answer(*args, **settings)

    engine.generate = meet
    answers = ChatSDA(engine=engine).batch(["One?", "Two?", "Three?"])
    assert [message.content for message in answers] == [ANSWER] * 3


async def test_abatch_answers_all(engine) -> None:
    answers = await ChatSDA(engine=engine).abatch(["One?", "Two?"])
    assert [message.content for message in answers] == [ANSWER] * 2


def test_tokens_are_counted_by_the_models_own_tokenizer(engine) -> None:
    chat = ChatSDA(engine=engine)
    assert chat.get_token_ids("to be or") == [2, 2, 2]
    assert chat.get_num_tokens("to be or") == 3
    assert chat.get_num_tokens_from_messages([SystemMessage("Be brief."), HumanMessage("Is it?")]) == 4
    assert chat.get_num_tokens_from_messages([]) == 0


def test_a_tokenizer_of_the_users_own_comes_first(engine) -> None:
    assert ChatSDA(engine=engine, custom_get_token_ids=lambda text: [len(text)]).get_token_ids("abc") == [3]


def test_v1_output_is_content_blocks_on_every_route(engine) -> None:
    chat = ChatSDA(engine=engine, output_version="v1")
    assert chat.invoke("Hi").content == [{"type": "text", "text": ANSWER}]
    chunks = list(chat.stream("Hi"))
    assert all(isinstance(chunk, AIMessageChunk) and isinstance(chunk.content, list) for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == ANSWER
