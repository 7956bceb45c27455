"""Chats over HTTP: OpenAI's own client gets what the engine in process gives."""

import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from sda_engine import Sampling, Steering
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, call_text, tiny_engine
from tests.sda_integrations.server.answers import GREEDY, QUESTION, events_of
from tests.servers import serving
from tests.thinking import scripted_thinker

MODEL = "tiny-llama"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def url(engine):
    """A server of the tiny engine, which steers by honesty where a request does not say."""
    with serving(engine, alignment="honesty") as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made:
        yield made


def ask(client, **fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **GREEDY, **fields})


def in_process(engine, alignment="honesty", steering=None, **sampling):
    settings = Sampling(**{"temperature": 0, "max_new_tokens": 8, **sampling})
    return engine.generate(QUESTION, alignment, sampling=settings, steering=steering or Steering())


# --- Whole answers and streams


def test_a_whole_answer_equals_the_engines_own(client, engine):
    reply, wanted = ask(client), in_process(engine)
    assert reply.choices[0].message.content == wanted.text
    assert reply.choices[0].finish_reason == wanted.finish_reason
    assert reply.usage.completion_tokens == wanted.usage.completion_tokens
    assert reply.usage.prompt_tokens == wanted.usage.prompt_tokens
    assert (reply.model, reply.object) == (MODEL, "chat.completion")
    assert reply.id.startswith("chatcmpl-")
    told = reply.model_extra["sda"]
    assert (told["alignment"], told["strength"]) == ("honesty", wanted.trace.strength)
    assert told["mean_divergence"] == pytest.approx(wanted.trace.mean_divergence)


def test_a_stream_says_the_same_and_its_role_first(client, engine):
    wanted = in_process(engine)
    chunks = list(ask(client, stream=True))
    first, *_, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.text
    assert last.finish_reason == wanted.finish_reason
    assert chunks[-1].model_extra["sda"]["strength"] == wanted.trace.strength
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_tells_usage_last_where_that_is_asked_for(client):
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    whole = ask(client)
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_async_client_gets_the_same(url, engine):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        whole = await ask(client)
        chunks = [chunk async for chunk in await ask(client, stream=True)]
    wanted = in_process(engine).text
    assert whole.choices[0].message.content == wanted
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted


def test_a_stream_is_made_of_events_and_ends_with_done(url):
    body = {"model": MODEL, "messages": QUESTION, **GREEDY, "stream": True}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in reply.headers
    *chunks, done = events_of(reply.text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert reply.text == "".join(part + "\n\n" for part in reply.text.split("\n\n")[:-1])


# --- What a request may say


def test_an_alias_names_the_alignment_and_is_told_back(client, engine):
    reply = ask(client, model=f"{MODEL}:empathy")
    assert reply.model == f"{MODEL}:empathy"
    assert reply.choices[0].message.content == in_process(engine, "empathy").text
    assert reply.model_extra["sda"]["alignment"] == "empathy"


def test_the_requests_own_steering_comes_before_the_servers(client, engine):
    reply = ask(client, extra_body={"sda": {"alignment": "be kind", "gain": 5.0, "amplification": 1.0}})
    wanted = in_process(engine, "be kind", Steering(gain=5.0, amplification=1.0))
    assert reply.choices[0].message.content == wanted.text
    assert reply.model_extra["sda"]["strength"] == 5.0


def test_what_changes_nothing_is_no_error_and_no_warning(client, engine):
    reply = ask(client, extra_body={"sda": {"alignment": None, "gain": 5.0}})
    assert reply.choices[0].message.content == in_process(engine, None).text


def test_several_answers_have_seeds_that_count_on(client, engine):
    reply = ask(client, n=3, seed=7, temperature=1.0)
    wanted = [in_process(engine, temperature=1.0, seed=seed) for seed in (7, 8, 9)]
    assert [choice.message.content for choice in reply.choices] == [one.text for one in wanted]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens == sum(one.usage.completion_tokens for one in wanted)
    assert reply.usage.prompt_tokens == wanted[0].usage.prompt_tokens
    assert all(choice.model_extra["sda"]["alignment"] == "honesty" for choice in reply.choices)


def test_several_answers_are_streamed_side_by_side(client, engine):
    chunks = list(ask(client, n=2, seed=7, temperature=1.0, stream=True))
    for number, seed in enumerate((7, 8)):
        deltas = [choice.delta for chunk in chunks for choice in chunk.choices if choice.index == number]
        assert deltas[0].role == "assistant"
        text = "".join(delta.content or "" for delta in deltas)
        assert text == in_process(engine, temperature=1.0, seed=seed).text
    order = [choice.index for chunk in chunks for choice in chunk.choices]
    assert order != sorted(order)


def test_a_stop_text_ends_the_answer(client, engine):
    whole = in_process(engine).text
    stop = whole[2:4]
    reply = ask(client, stop=[stop])
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_engines(client, engine, stream):
    wanted = in_process(engine, logprobs=2).logprobs
    reply = ask(client, logprobs=True, top_logprobs=2, stream=stream)
    choices = [chunk.choices[0] for chunk in reply] if stream else reply.choices
    places = [place for choice in choices if choice.logprobs for place in choice.logprobs.content]
    assert [place.token for place in places] == [place.chosen.text for place in wanted]
    assert [place.logprob for place in places] == pytest.approx([place.chosen.logprob for place in wanted], abs=1e-4)
    assert [[one.token for one in place.top_logprobs] for place in places] == [
        [one.text for one in place.top] for place in wanted
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_ids_and_trace_come_where_they_are_asked_for(client, engine, stream):
    asked = {"token_ids": True, "trace": True}
    reply = ask(client, extra_body={"sda": asked}, stream=stream)
    told = [chunk.model_extra.get("sda") for chunk in reply] if stream else [reply.model_extra["sda"]]
    parts = [part for part in told if part]
    wanted = in_process(engine)
    assert tuple(number for part in parts for number in part.get("token_ids", ())) == wanted.token_ids
    trace = [token for part in parts for token in part.get("trace", ())]
    assert [token["token_id"] for token in trace] == list(wanted.token_ids)
    assert [token["divergence"] for token in trace] == pytest.approx(wanted.trace.divergence, abs=1e-4)


def test_a_schema_is_kept(client):
    class Choice(BaseModel):
        colour: bool

    reply = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=40, response_format=Choice
    )
    assert isinstance(reply.choices[0].message.parsed, Choice)


def test_a_regular_expression_is_kept(client):
    reply = ask(client, extra_body={"sda": {"constraint": {"regex": "yes|no"}}})
    assert reply.choices[0].message.content in ("yes", "no")


def test_keys_do_not_share_what_is_stored_of_prompts():
    with tiny_engine() as engine, serving(engine, api_keys=("one", "two")) as url:

        def cached(key):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                return ask(client).usage.prompt_tokens_details.cached_tokens

        assert [cached(key) > 0 for key in ("one", "one", "two", "two")] == [False, True, False, True]


# --- Tools, thoughts and evaluators, with answers that are known


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(stream):
    with (
        ScriptedEngine(call_text("add", {"a": 1, "b": 2})) as engine,
        serving(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        reply = ask(client, model="scripted", tools=[TOOL], max_tokens=100, stream=stream)
        if stream:
            chunks = list(reply)
            pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
            name, finish = pieces[0].function.name, chunks[-1].choices[0].finish_reason
            arguments = "".join(piece.function.arguments for piece in pieces)
        else:
            (call,) = reply.choices[0].message.tool_calls
            name, arguments, finish = call.function.name, call.function.arguments, reply.choices[0].finish_reason
    assert (name, json.loads(arguments), finish) == ("add", {"a": 1, "b": 2}, "tool_calls")


def test_a_call_and_its_result_come_back_into_the_chat():
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    chat = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ]
    with ScriptedEngine("It is 3.") as engine, serving(engine) as url:
        body = {"model": "scripted", "messages": chat, "tools": [TOOL], "max_tokens": 50}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert reply.json()["choices"][0]["message"]["content"] == "It is 3."
        assert [message["role"] for message in engine.requests[0].messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_comes_apart_from_the_answer(stream):
    with (
        scripted_thinker("Qwen 3", "<think>\nhm\n</think>\n\nBooks.") as engine,
        serving(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        reply = ask(client, model="scripted", max_tokens=100, stream=stream)
        said = [chunk.choices[0].delta for chunk in reply] if stream else [reply.choices[0].message]
    assert "".join(one.content or "" for one in said) == "Books."
    assert "".join(one.model_extra.get("reasoning_content") or "" for one in said) == "\nhm\n"


def test_no_effort_turns_thoughts_off_and_others_are_refused():
    with (
        scripted_thinker("Qwen 3", "Books.") as engine,
        serving(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        ask(client, model="scripted", reasoning_effort="none")
        assert engine.requests[0].template_kwargs == {"enable_thinking": False}
        own = {"sda": {"template_kwargs": {"enable_thinking": True}}}
        ask(client, model="scripted", reasoning_effort="none", extra_body=own)
        assert engine.requests[1].template_kwargs == {"enable_thinking": True}
        with pytest.raises(openai.BadRequestError, match="It must be 'none' or left out") as raised:
            ask(client, model="scripted", reasoning_effort="high")
    assert raised.value.param == "reasoning_effort"


@pytest.mark.parametrize("stream", [False, True])
def test_an_evaluator_rates_by_the_name_that_the_server_knows(engine, stream):
    judge = ScriptedEvaluator([80])
    with (
        serving(engine, alignment="honesty", evaluators={"judge": judge}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        reply = ask(client, extra_body={"sda": {"evaluator": "judge"}}, stream=stream)
        told = (list(reply)[-1] if stream else reply).model_extra["sda"]
    assert (told["score"]["value"], told["score"]["evaluator"]) == (80, "judge")
    assert told["base_response"] == in_process(engine, None).text
    assert len(judge.requests) == 1
