"""Inspect's messages as the engine's."""

from pathlib import Path

import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentAudio,
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
        ChatMessageUser(content=[ContentAudio(audio="data:audio/wav;base64,AAAA", format="wav")]),
        ChatMessageUser(content=[ContentReasoning(reasoning="Not an answer's.")]),
    ],
)
def test_what_is_neither_text_nor_a_picture_is_refused(message) -> None:
    with pytest.raises(MessageError, match=r"A ChatMessageUser holds Content.*in words"):
        to_engine_messages([message])


@pytest.mark.parametrize(
    ("image", "handed"),
    [
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ("https://example.org/cat.png", "https://example.org/cat.png"),  # which the engine refuses
        ("pictures/cat.png", Path("pictures/cat.png")),
    ],
)
def test_a_picture_of_a_task_is_handed_on(image, handed) -> None:
    message = ChatMessageUser(content=[ContentText(text="What is it?"), ContentImage(image=image)])
    content = [{"type": "text", "text": "What is it?"}, {"type": "image", "image": handed}]
    assert to_engine_messages([message]) == [{"role": "user", "content": content}]


def test_a_tool_opens_no_file_by_its_name() -> None:
    message = ChatMessageTool(content=[ContentImage(image="/etc/passwd")])
    assert to_engine_messages([message]) == [{"role": "tool", "content": [{"type": "image", "image": "/etc/passwd"}]}]
