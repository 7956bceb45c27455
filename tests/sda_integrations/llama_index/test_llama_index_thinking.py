"""Models that think before they answer: the thought comes in a ThinkingBlock, and streams as thinking_delta."""

import json

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from sda_engine.testing import call_text
from tests.sda_integrations.llama_index.asking import CHATTING, METHODS, STREAMING, STRUCTURED, ask, read, text_of

THINKS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:{# <think> #}"
THOUGHT = "<think>It was one of two.</think>Goethe wrote Faust."


class Author(BaseModel):
    """Who wrote a work."""

    name: str


@pytest.mark.parametrize("method", CHATTING)
async def test_a_thought_comes_in_a_block_before_the_text(scripted_llm, method):
    last = (await ask(scripted_llm(THOUGHT, chat_template=THINKS), method))[-1]
    assert last.message.blocks == [
        ThinkingBlock(content="It was one of two."),
        TextBlock(text="Goethe wrote Faust."),
    ]
    assert last.message.content == "Goethe wrote Faust."


@pytest.mark.parametrize("method", [method for method in CHATTING if method in STREAMING])
async def test_a_thought_streams_as_thinking_delta(scripted_llm, method):
    responses = await ask(scripted_llm(THOUGHT, chat_template=THINKS), method)
    thoughts = [response.additional_kwargs.get("thinking_delta", "") for response in responses]
    assert len([thought for thought in thoughts if thought]) > 3
    assert "".join(thoughts) == "It was one of two."
    assert "".join(response.delta for response in responses) == "Goethe wrote Faust."
    first = responses[0].message
    assert first.content == ""
    assert "It was one of two.".startswith(first.blocks[0].content)


async def test_a_thought_that_may_be_no_longer_is_closed(scripted_llm):
    llm = scripted_llm(THOUGHT, chat_template=THINKS, max_reasoning_tokens=3)
    thought, text = llm.chat([ChatMessage(content="Who?")]).message.blocks
    assert "It was one of two.".startswith(thought.content)
    assert len(thought.content) < len("It was one of two.")
    assert text == TextBlock(text="Goethe wrote Faust.")
    assert llm.chat([ChatMessage(content="Who?")], max_reasoning_tokens=0).message.blocks == [text]


@pytest.mark.parametrize("method", METHODS)
async def test_a_thought_is_no_text(scripted_llm, method):
    responses = await ask(scripted_llm(THOUGHT, chat_template=THINKS), method)
    assert text_of(responses[-1]) == "Goethe wrote Faust."
    assert json.dumps(responses[-1].raw)


@pytest.mark.parametrize("method", CHATTING)
async def test_a_model_that_does_not_think_writes_what_it_writes(scripted_llm, method):
    last = (await ask(scripted_llm(THOUGHT), method))[-1]
    assert last.message.blocks == [TextBlock(text=THOUGHT)]


@pytest.mark.parametrize("method", CHATTING)
async def test_a_thought_may_come_before_a_call(scripted_llm, method):
    answer = f"<think>I look.</think>{call_text('Author', {'name': 'Goethe'})}"
    last = (await ask(scripted_llm(answer, chat_template=THINKS), method, tools=[Author], tool_choice="Author"))[-1]
    thought, call = last.message.blocks
    assert thought == ThinkingBlock(content="I look.")
    assert isinstance(call, ToolCallBlock)
    assert call.tool_kwargs == {"name": "Goethe"}


@pytest.mark.parametrize("method", STRUCTURED)
async def test_a_thought_may_come_before_an_object(scripted_llm, method):
    llm = scripted_llm('<think>{"name": </think>{"name": "Goethe"}', chat_template=THINKS)
    objects = await read(method, getattr(llm, method)(Author, PromptTemplate("Who?")))
    assert objects[-1] == Author(name="Goethe")


async def test_a_thought_is_left_out_of_the_next_prompt(scripted_llm):
    llm = scripted_llm(THOUGHT, chat_template=THINKS)
    answer = llm.chat([ChatMessage(content="Who?")]).message
    llm.chat([ChatMessage(content="Who?"), answer, ChatMessage(content="Sure?")])
    assert llm.load().requests[-1].messages[1] == {"role": "assistant", "content": "Goethe wrote Faust."}
