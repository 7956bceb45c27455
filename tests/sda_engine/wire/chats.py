"""Chats that go over the wire."""

from tests.conftest import user

CALL = {"type": "function", "id": "a1b2c3d4e", "function": {"name": "add", "arguments": {"a": 1, "b": [None, "ß"]}}}
NOW = {"function": {"name": "now", "arguments": {}}}
CHATS = (
    user("Is the earth flat?"),
    [{"role": "system", "content": "Be brief.\n"}, *user("Ünïcödé \N{GRINNING FACE} \x00 </s>")],
    [
        *user("What is 1 + 2?"),
        {"role": "assistant", "content": "", "reasoning_content": "I add.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "a1b2c3d4e", "name": "add"},
        {"role": "tool", "content": "", "tool_call_id": "a1b2c3d4e"},
        {"role": "assistant", "content": "3."},
        *user("Thanks."),
    ],
    [*user("Now?"), {"role": "assistant", "content": "", "tool_calls": [NOW]}],
)
