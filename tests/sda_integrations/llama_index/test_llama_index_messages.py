"""ChatMessages in, the engine's plain dicts out."""

import json
from io import BytesIO

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from sda_engine import EngineSettings
from sda_engine.contents import pictures_of
from sda_engine.errors import MessageError
from sda_engine.prompts import normalise_messages, read_messages
from sda_integrations.llama_index import SDALLM
from sda_integrations.llama_index.messages import plain_messages
from tests.drawings import data_url, picture_file


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("chatbot", "assistant"),
        ("model", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_roles_become_those_of_chat_templates(role, expected):
    assert plain_messages([ChatMessage(role=role, content="Hi")]) == [{"role": expected, "content": "Hi"}]


def test_every_role_of_llama_index_is_known_to_the_engine():
    messages = [ChatMessage(role=role, content="Hi") for role in MessageRole]
    assert normalise_messages(plain_messages(messages))


def test_text_blocks_join_as_in_the_message_content():
    message = ChatMessage(blocks=[TextBlock(text="one"), TextBlock(text="two")])
    assert plain_messages([message])[0]["content"] == message.content == "one\ntwo"


def test_a_message_without_content_is_empty_text():
    assert plain_messages([ChatMessage(role="assistant")]) == [{"role": "assistant", "content": ""}]


def test_cited_text_is_kept_and_thinking_and_cache_points_are_dropped():
    blocks = [
        ThinkingBlock(content="hm"),
        CitableBlock(title="T", source="S", content=[TextBlock(text="a page")]),
        CitationBlock(cited_content=TextBlock(text="a quote"), source="S", title="T", additional_location_info={}),
        CachePoint(cache_control=CacheControl(type="ephemeral")),
        TextBlock(text="the end"),
    ]
    assert plain_messages([ChatMessage(blocks=blocks)])[0]["content"] == "a page\na quote\nthe end"


def test_pictures_keep_their_places_among_the_texts():
    file, data = picture_file(), data_url()
    cited = CitableBlock(title="T", source="S", content=[TextBlock(text="a page"), ImageBlock(image=file)])
    blocks = [
        ImageBlock(image=file),
        TextBlock(text="one"),
        cited,
        ImageBlock(image=BytesIO(file)),
        ImageBlock(url=data),
    ]
    (turn,) = plain_messages([ChatMessage(blocks=blocks)])
    assert [part.get("text", part.get("image")) for part in turn["content"]] == [
        file,
        "one",
        "a page",
        file,
        file,
        data,
    ]
    assert len(set(pictures_of(read_messages([turn], EngineSettings().picture_limits)))) == 1


def test_a_picture_in_a_file_is_handed_on_as_its_path(tmp_path):
    (tmp_path / "red.png").write_bytes(picture_file())
    (turn,) = plain_messages([ChatMessage(blocks=[ImageBlock(path=tmp_path / "red.png")])])
    assert turn["content"] == [{"type": "image", "image": tmp_path / "red.png"}]


def test_an_address_is_not_fetched(monkeypatch):
    monkeypatch.setattr(ImageBlock, "resolve_image", None)
    (turn,) = plain_messages([ChatMessage(blocks=[ImageBlock(url="https://example.org/cat.png")])])
    with pytest.raises(MessageError, match="no address is fetched here"):
        read_messages([turn], EngineSettings().picture_limits)


def test_an_empty_picture_is_refused():
    with pytest.raises(MessageError, match="empty ImageBlock"):
        plain_messages([ChatMessage(blocks=[ImageBlock()])])


def test_a_function_that_makes_one_text_of_a_chat_drops_no_picture_in_silence():
    llm = SDALLM(model="smollm2-135m", messages_to_prompt=lambda messages: "all of it")
    with pytest.raises(MessageError, match="messages_to_prompt makes one text"):
        llm.chat([ChatMessage(blocks=[ImageBlock(image=picture_file())])])


@pytest.mark.parametrize(
    "block",
    [
        AudioBlock(audio=b"x", format="wav"),
        DocumentBlock(data=b"x", document_mimetype="application/pdf", title="paper"),
        CitableBlock(title="T", source="S", content=[DocumentBlock(data=b"x", title="paper")]),
    ],
)
def test_what_is_neither_text_nor_a_picture_is_refused(block):
    with pytest.raises(MessageError, match="reads text, and pictures if"):
        plain_messages([ChatMessage(blocks=[TextBlock(text="Look:"), block])])


def test_what_is_no_chat_message_is_refused():
    with pytest.raises(MessageError, match="must be a ChatMessage"):
        plain_messages([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("arguments", [{"city": "Weimar"}, '{"city": "Weimar"}'])
def test_tool_call_blocks_become_tool_calls(arguments):
    block = ToolCallBlock(tool_call_id="1", tool_name="weather", tool_kwargs=arguments)
    message = ChatMessage(role="assistant", blocks=[TextBlock(text="I look."), block])
    function = {"name": "weather", "arguments": {"city": "Weimar"}}
    assert plain_messages([message]) == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        }
    ]


def test_older_tool_calls_in_additional_kwargs_are_read_once():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Weimar"}'}}
    old = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]})
    both = ChatMessage(
        role="assistant",
        blocks=[ToolCallBlock(tool_call_id="1", tool_name="weather", tool_kwargs={"city": "Weimar"})],
        additional_kwargs={"tool_calls": [call]},
    )
    expected = [{**call, "function": {"name": "weather", "arguments": {"city": "Weimar"}}}]
    assert plain_messages([old])[0]["tool_calls"] == expected
    assert plain_messages([both])[0]["tool_calls"] == expected
    with pytest.raises(MessageError, match="ToolCallBlock"):
        plain_messages([ChatMessage(role="assistant", additional_kwargs={"tool_calls": ["weather"]})])


@pytest.mark.parametrize("arguments", ["not json", "[1]"])
def test_arguments_that_are_no_json_object_stay_text(arguments):
    block = ToolCallBlock(tool_name="weather", tool_kwargs=arguments)
    (call,) = plain_messages([ChatMessage(role="assistant", blocks=[block])])[0]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_tool_results_keep_the_id_and_name_of_their_call():
    message = ChatMessage(
        role="tool", content="rain", additional_kwargs={"tool_call_id": "1", "name": "weather", "other": 2}
    )
    assert plain_messages([message]) == [{"role": "tool", "content": "rain", "tool_call_id": "1", "name": "weather"}]


def test_system_messages_at_the_start_become_one_turn_and_later_ones_stay():
    roles = ["system", "developer", "user", "system"]
    messages = [ChatMessage(role=role, content=str(place)) for place, role in enumerate(roles)]
    assert plain_messages(messages) == [
        {"role": "system", "content": "0\n\n1"},
        {"role": "user", "content": "2"},
        {"role": "system", "content": "3"},
    ]


def test_the_given_messages_are_not_changed():
    call = ToolCallBlock(tool_call_id="1", tool_name="weather", tool_kwargs={"city": "Weimar"})
    messages = [ChatMessage(role="system", content="a"), ChatMessage(role="assistant", blocks=[call])]
    before = [message.model_dump_json() for message in messages]
    plain = plain_messages(messages)
    assert [message.model_dump_json() for message in messages] == before
    assert json.dumps(plain)
