"""Calls of earlier turns whose arguments are Python objects, and texts in parts."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel

from sda_engine.errors import MessageError
from sda_engine.prompts import normalise_messages
from sda_engine.testing import ScriptedEngine


class Kind(Enum):
    SUN = "sun"


class Point(BaseModel):
    x: int
    day: date


@dataclass
class Pair:
    kind: Kind


CYCLE: list[object] = []
CYCLE.append(CYCLE)
UUID_TEXT = "12345678-1234-5678-1234-567812345678"


def with_argument(value: object) -> list[dict[str, object]]:
    call = {"type": "function", "id": "1", "function": {"name": "look", "arguments": {"value": value, "n": 1}}}
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (timedelta(seconds=90), "PT1M30S"),
        (Decimal("1.50"), "1.50"),
        ({7}, [7]),
        ((1, 2), [1, 2]),
        (b"caf\xc3\xa9", "café"),
        (Kind.SUN, "sun"),
        (Point(x=1, day=date(2026, 1, 2)), {"x": 1, "day": "2026-01-02"}),
        (Pair(Kind.SUN), {"kind": "sun"}),
        (UUID(UUID_TEXT), UUID_TEXT),
        (Path("a"), "a"),
        ({date(2026, 1, 2): [Kind.SUN]}, {"2026-01-02": ["sun"]}),
        ({"plain": [1, 2.5, None, True, "text"]}, {"plain": [1, 2.5, None, True, "text"]}),
    ],
    ids=repr,
)
def test_what_has_a_natural_form_in_json_takes_it(value, expected):
    messages = with_argument(value)
    (_, turn) = normalise_messages(messages)
    (call,) = turn["tool_calls"]
    assert call["function"]["arguments"] == {"value": expected, "n": 1}
    assert messages[1]["tool_calls"][0]["function"]["arguments"]["value"] is value, "the given ones are not changed"
    with ScriptedEngine("ok") as engine:
        assert engine.generate(messages).text == "ok"


@pytest.mark.parametrize("value", [object(), b"\xff", 10**5000, [10**5000], CYCLE, {"deep": print}], ids=type)
def test_what_has_none_is_refused_by_its_place(value):
    with pytest.raises(MessageError, match=r"messages\[1\].tool_calls\[0\].function.arguments\['value'\] cannot be"):
        normalise_messages(with_argument(value))


def test_arguments_that_are_one_object_or_a_text_are_read_as_well():
    for arguments, expected in [(Point(x=1, day=date(2026, 1, 2)), {"x": 1, "day": "2026-01-02"}), ("{bad", "{bad")]:
        call = {"name": "look", "arguments": arguments}
        (turn,) = normalise_messages([{"role": "assistant", "tool_calls": [call]}])
        assert turn["tool_calls"] == [{"name": "look", "arguments": expected}]


def test_text_parts_stand_one_a_line():
    parts = [{"type": "text", "text": text} for text in ("1", "2", "12")]
    (turn,) = normalise_messages([{"role": "user", "content": parts}])
    assert turn["content"] == "1\n2\n12"
