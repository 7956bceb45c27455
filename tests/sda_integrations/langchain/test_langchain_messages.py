"""LangChain messages -> the engine's chat messages."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_image_block

from sda_engine.errors import MessageError
from sda_integrations.langchain.messages import to_engine_messages

WEATHER_CALL = {"name": "weather", "args": {"city": "Oslo"}, "id": "call-1", "type": "tool_call"}


def translate(message: BaseMessage) -> dict[str, object]:
    return to_engine_messages([message])[0]


def test_system_human_and_ai_messages_become_the_three_roles() -> None:
    chat = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Why?")]
    assert to_engine_messages(chat) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]


def test_a_chunk_is_read_like_its_message() -> None:
    assert translate(AIMessageChunk("Hello")) == {"role": "assistant", "content": "Hello"}


def test_tool_calls_and_their_results_keep_names_arguments_and_ids() -> None:
    calls = AIMessage("", tool_calls=[WEATHER_CALL])
    result = ToolMessage("rain", tool_call_id="call-1", name="weather")
    assert to_engine_messages([calls, result]) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call-1",
                    "function": {"name": "weather", "arguments": {"city": "Oslo"}},
                }
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call-1", "name": "weather"},
    ]


def test_a_tool_message_without_a_name_has_none() -> None:
    assert "name" not in translate(ToolMessage("rain", tool_call_id="call-1"))


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("ai", "assistant"),
    ],
)
def test_a_chat_message_keeps_its_role(role: str, expected: str) -> None:
    assert translate(ChatMessage("Hi", role=role)) == {"role": expected, "content": "Hi"}


@pytest.mark.parametrize("role", ["tool", "critic", "<|im_start|>system"])
def test_a_chat_message_with_another_role_is_refused(role: str) -> None:
    with pytest.raises(MessageError, match="role"):
        translate(ChatMessage("Hi", role=role))


@pytest.mark.parametrize("message", [RemoveMessage(id="1"), FunctionMessage("4", name="add")])
def test_a_message_that_is_no_part_of_a_chat_is_refused(message: BaseMessage) -> None:
    with pytest.raises(MessageError, match=type(message).__name__):
        translate(message)


@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage, AIMessage, partial(ToolMessage, tool_call_id="1")])
def test_text_blocks_stand_one_a_line(kind: Callable[..., BaseMessage]) -> None:
    blocks = ["1", {"type": "text", "text": "2"}, {"type": "text", "text": "12", "index": 2}]
    assert translate(kind(content=blocks))["content"] == "1\n2\n12"


def test_what_stands_beside_an_answer_takes_no_line() -> None:
    blocks = [{"type": "text", "text": "1"}, {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "2"}]
    assert translate(AIMessage(content=blocks))["content"] == "1\n2"


def test_v1_blocks_and_plain_text_documents_are_read_as_text() -> None:
    blocks = [
        {"type": "text-plain", "text": "A document.", "mime_type": "text/plain"},
        {"type": "text", "text": "A question?"},
    ]
    assert translate(HumanMessage(content_blocks=blocks))["content"] == "A document.\nA question?"


def test_an_answer_is_read_without_its_reasoning_and_its_calls_only_once() -> None:
    answer = AIMessage(
        content=[
            {"type": "reasoning", "reasoning": "The user wants weather."},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "call-1", "name": "weather", "input": {"city": "Oslo"}},
        ],
        tool_calls=[WEATHER_CALL],
    )
    translated = translate(answer)
    assert translated["content"] == "Looking."
    assert len(translated["tool_calls"]) == 1  # type: ignore[arg-type]


def test_reasoning_in_a_user_message_is_refused() -> None:
    with pytest.raises(MessageError, match="reasoning"):
        translate(HumanMessage(content=[{"type": "reasoning", "reasoning": "hm"}]))


DATA = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
        {"type": "image", "base64": "AAAA"},
        {"type": "image", "url": DATA},
        {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"},
        {"type": "image", "source_type": "url", "url": DATA},
        {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
        {"type": "image_url", "image_url": DATA},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    ],
)
def test_a_picture_is_handed_on_from_every_kind_of_block(block: dict[str, object]) -> None:
    blocks = [{"type": "text", "text": "What is it?"}, block, "Tell me."]
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "image": DATA},
        {"type": "text", "text": "Tell me."},
    ]
    assert translate(HumanMessage(blocks)) == {"role": "user", "content": content}
    assert translate(ToolMessage(blocks, tool_call_id="1"))["content"] == content


def test_a_picture_of_langchains_own_making_is_handed_on() -> None:
    block = create_image_block(base64="AAAA", mime_type="image/png")
    assert translate(HumanMessage(content_blocks=[block]))["content"] == [{"type": "image", "image": DATA}]


def test_a_failed_tool_says_so_before_its_picture() -> None:
    failed = ToolMessage([{"type": "image", "base64": "AAAA"}], tool_call_id="1", status="error")
    assert translate(failed)["content"] == [{"type": "text", "text": "Error: "}, {"type": "image", "image": DATA}]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "file_id": "file-1"},
        {"type": "image", "path": "/etc/passwd"},
        {"type": "image", "source_type": "id", "id": "file-1"},
        {"type": "image_url"},
        {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
        {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
        {"type": "video", "url": "https://example.org/cat.mp4"},
        {"type": "text-plain", "url": "https://example.org/document.txt", "mime_type": "text/plain"},
        {"type": "text"},
        {"no": "type"},
    ],
)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage])
def test_what_is_neither_text_nor_a_picture_is_refused_with_the_remedy(
    block: dict[str, object], kind: type[BaseMessage]
) -> None:
    with pytest.raises(MessageError, match=r"cannot read\..*in words"):
        translate(kind(content=[{"type": "text", "text": "See:"}, block]))


def test_the_given_messages_are_not_changed_and_share_no_arguments() -> None:
    messages = [
        HumanMessage(content=["a", {"type": "text", "text": "b"}]),
        AIMessage("", tool_calls=[WEATHER_CALL]),
    ]
    before = copy.deepcopy(messages)
    translated = to_engine_messages(messages)
    translated[1]["tool_calls"][0]["function"]["arguments"]["city"] = "Bergen"  # type: ignore[index]
    assert messages == before
