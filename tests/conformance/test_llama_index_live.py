"""SDALLM on the real 135M model, greedy and short: LlamaIndex's methods, tools, an agent, objects and streams."""

import asyncio
import math
from itertools import pairwise

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from sda_integrations.llama_index import SDALLM, call_settings
from tests.floats import LOGPROB, assert_alike

# llama-index-workflows reads all attributes of an agent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
]

QUESTION = "What is the capital of France?"
# A 135M model does not choose to call a tool when it is merely told how. Steered towards it, it does.
CALLS_TOOLS = "Begin your answer with <tool_call>"

REAL = 10 * LOGPROB  # thirty layers in place of two


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    capital: bool


@pytest.fixture
def llm(smollm2_float32):
    return SDALLM(engine=smollm2_float32, temperature=0, max_tokens=10)


def user(text):
    return [ChatMessage(role="user", content=text)]


async def collect(stream):
    return [item async for item in stream]


async def answers(llm, family, asked, **keywords):
    """The responses of a method and of its three twins: whole, async, and as lists of chunks."""
    getattr(llm, family)(asked, **keywords)  # from here on the prompt is stored, and all compute the same
    return (
        getattr(llm, family)(asked, **keywords),
        await getattr(llm, f"a{family}")(asked, **keywords),
        list(getattr(llm, f"stream_{family}")(asked, **keywords)),
        await collect(await getattr(llm, f"astream_{family}")(asked, **keywords)),
    )


def check_streams(whole, later, *streams):
    """Each stream is made of deltas that add up to the whole answer, with the same numbers at its end."""
    assert_alike(later.model_dump(), whole.model_dump(), tolerance=REAL)
    for chunks in streams:
        last = chunks[-1]
        assert "".join(chunk.delta for chunk in chunks) == text_of(whole)
        assert [text_of(chunk) for chunk in chunks] == sorted((text_of(chunk) for chunk in chunks), key=len)
        assert text_of(last) == text_of(whole)
        assert_alike((last.raw, last.logprobs), (whole.raw, whole.logprobs), tolerance=REAL)
        assert all(chunk.raw is None for chunk in chunks[:-1])


def text_of(response):
    return response.message.content if hasattr(response, "message") else response.text


def check_numbers(response, text):
    """The usage adds up, and the chosen token of a greedy answer is the likeliest."""
    usage = response.raw["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert len(response.logprobs) == usage["completion_tokens"]
    for chosen, *others in response.logprobs:
        assert len(others) == 1, "the two likeliest tokens, of which one is chosen"
        assert 0 >= chosen.logprob >= others[0].logprob
        assert math.exp(chosen.logprob) + math.exp(others[0].logprob) <= 1 + 1e-6
    assert "".join(place[0].token for place in response.logprobs).startswith(text)


async def test_chat_and_its_twins_give_one_answer(llm):
    responses = await answers(llm, "chat", user(QUESTION), logprobs=2)
    check_streams(*responses)
    assert "Paris" in text_of(responses[0])
    check_numbers(responses[0], text_of(responses[0]))


async def test_complete_and_its_twins_give_one_answer(llm):
    responses = await answers(llm, "complete", QUESTION, logprobs=2)
    check_streams(*responses)
    assert "Paris" in text_of(responses[0])
    check_numbers(responses[0], text_of(responses[0]))


async def test_a_required_tool_is_called_in_all_four_ways(llm):
    keywords = {"user_msg": "What is 15 plus 27?", "tool_required": True, "max_tokens": 48}
    responses = [
        llm.chat_with_tools([ADD], **keywords),
        await llm.achat_with_tools([ADD], **keywords),
        list(llm.stream_chat_with_tools([ADD], **keywords))[-1],
        (await collect(await llm.astream_chat_with_tools([ADD], **keywords)))[-1],
    ]
    calls = [llm.get_tool_calls_from_response(response) for response in responses]
    assert all([call.tool_name for call in called] == ["add"] for called in calls)
    assert all(called[0].tool_kwargs == calls[0][0].tool_kwargs for called in calls)
    assert all(type(value) is int for value in calls[0][0].tool_kwargs.values())
    assert set(calls[0][0].tool_kwargs) == {"a", "b"}
    assert len({called[0].tool_id for called in calls}) == 4
    assert all(response.raw["finish_reason"] == "tool_calls" for response in responses)


def test_a_tool_is_called_by_the_model_itself_where_it_is_steered_to(llm):
    keywords = {"user_msg": "What is 15 plus 27?", "max_tokens": 48}
    plain = llm.chat_with_tools([ADD], **keywords)
    steered = llm.chat_with_tools([ADD], alignment=CALLS_TOOLS, **keywords)
    assert llm.get_tool_calls_from_response(plain, error_on_no_tool_call=False) == []
    (call,) = llm.get_tool_calls_from_response(steered)
    assert call.tool_name == "add"


async def test_a_function_agent_calls_its_tool_once_and_answers(llm):
    agent = FunctionAgent(
        llm=llm.model_copy(update={"max_tokens": 48}),
        tools=[ADD],
        initial_tool_choice="add",
        allow_parallel_tool_calls=False,
    )
    handler = agent.run(user_msg="What is 15 plus 27?")
    events = [event async for event in handler.stream_events()]
    result = await handler
    (found,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert found.tool_output.raw_output == sum(found.tool_kwargs.values())
    assert str(result)
    assert str(result) == [event.response for event in events if type(event) is AgentStream][-1]


async def test_a_predicted_object_is_the_same_in_all_four_ways(llm):
    prompt = PromptTemplate("Which city is the capital of {country}?")
    keywords = {"country": "France", "llm_kwargs": {"max_tokens": 32}}
    whole = llm.structured_predict(City, prompt, **keywords)
    assert type(whole) is City
    assert "Paris" in whole.name
    assert await llm.astructured_predict(City, prompt, **keywords) == whole
    for grown in (
        list(llm.stream_structured_predict(City, prompt, **keywords)),
        await collect(await llm.astream_structured_predict(City, prompt, **keywords)),
    ):
        assert grown[-1] == whole
        assert any(partial.name == whole.name and partial.capital is None for partial in grown[:-1])


async def test_two_streams_interleave_on_one_event_loop(llm):
    order = []

    async def read(name, question):
        text = ""
        async for chunk in await llm.astream_chat(user(question)):
            order.append(name)
            text += chunk.delta
        return text

    questions = (QUESTION, "Tell me a story.")
    texts = await asyncio.gather(*map(read, ("first", "second"), questions))
    changes = sum(one != other for one, other in pairwise(order))
    assert changes > 3, "neither waits for the other to end"
    assert texts == [text_of(llm.chat(user(question))) for question in questions]


@pytest.fixture
def read_tokens(smollm2_float32):
    """How many tokens each forward pass of the model has read, in all rows of its batch."""
    numbers = []
    handle = smollm2_float32.model.register_forward_hook(
        lambda model, arguments, keywords, output: numbers.append(keywords["input_ids"].numel()), with_kwargs=True
    )
    yield numbers
    handle.remove()


async def test_a_closed_stream_stops_decoding_within_one_token(llm, read_tokens):
    def tokens_for_another_answer():
        before = len(read_tokens)
        llm.complete("Hi", max_tokens=4)
        return sum(read_tokens[before:])

    alone = tokens_for_another_answer()
    assert alone > 4
    stream = llm.stream_chat(user("Tell me a long story."), max_tokens=400)
    next(stream)
    stream.close()
    assert tokens_for_another_answer() <= alone + 1
    stream = await llm.astream_chat(user("Tell me a long story."), max_tokens=400)
    await anext(stream)
    await stream.aclose()
    assert tokens_for_another_answer() <= alone + 1


def test_an_alignment_for_one_call_or_one_block_changes_the_answer(llm):
    asked, pirate = user("How are you?"), {"alignment": "Talk like a pirate.", "gain": 4.0, "amplification": 0.25}
    plain = text_of(llm.chat(asked))
    steered = llm.chat(asked, **pirate)
    assert text_of(steered) != plain
    assert steered.raw["sda"]["strength"] == 1.0
    with call_settings(**pirate):
        assert text_of(llm.chat(asked)) == text_of(steered)
        assert text_of(llm.chat(asked, alignment=None)) == plain
