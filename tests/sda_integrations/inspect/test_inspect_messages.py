"""Inspect's messages as the engine's."""

import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall, ToolCallError

from sda_engine.errors import MessageError
from sda_integrations.inspect.messages import to_engine_messages


def test_every_kind_of_message_is_translated() -> None:
    call = ToolCall(id="c1", function="add", arguments={"a": 1})
    thought = [ContentReasoning(reasoning="Hm."), ContentText(text="I add.")]
    messages = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="One"), ContentText(text="two?")]),
        ChatMessageAssistant(content=thought, tool_calls=[call]),
        ChatMessageTool(content="3", tool_call_id="c1", function="add"),
        ChatMessageAssistant(content="Three."),
    ]
    assert to_engine_messages(messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One\ntwo?"},
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "Three."},
    ]


@pytest.mark.parametrize(("said", "told"), [("no such file", "Error: no such file"), ("Error 5", "Error 5")])
def test_a_failed_tool_says_that_it_failed(said, told) -> None:
    message = ChatMessageTool(content="ignored", error=ToolCallError("unknown", said))
    assert to_engine_messages([message]) == [{"role": "tool", "content": told}]


@pytest.mark.parametrize(
    "message",
    [
        ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")]),
        ChatMessageUser(content=[ContentReasoning(reasoning="Not an answer's.")]),
    ],
)
def test_what_is_no_text_is_refused(message) -> None:
    with pytest.raises(MessageError, match=r"A ChatMessageUser holds Content.*text only"):
        to_engine_messages([message])
