"""The page of the wire format tells what the code does: its tables and its examples."""

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from sda_engine.config import Steering
from sda_engine.engine import SteeringEngine
from sda_engine.testing import ScriptedEngine
from sda_engine.wire.errors import KINDS
from sda_engine.wire.openai_fields import CHAT_FIELDS, COMPLETION_FIELDS
from sda_engine.wire.read_request import read_alignment
from sda_engine.wire.replies import ChatReply, ErrorReply, ModelCard, SDAResult, TokenRecord
from sda_engine.wire.requests import ChatRequest
from sda_engine.wire.sda_field import SDAField
from sda_integrations.server import ServerSettings
from sda_integrations.server.models import ServedModels

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/wire-format.md").read_text("utf-8")
EXAMPLES = [
    json.loads(token.content) for token in MarkdownIt().parse(PAGE) if token.type == "fence" and token.info == "json"
]


def table(heading):
    """The rows of the table under a head row, as lists of cells."""
    lines = PAGE.partition(heading)[2].splitlines()[2:]
    rows = lines[: lines.index("")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def named(cells):
    """What is written as code in some cells."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(("place", "fields"), [(1, CHAT_FIELDS), (2, COMPLETION_FIELDS)])
def test_the_tables_of_openais_fields_are_those_of_the_code(place, fields):
    heading = "| field | | how, or why not |"
    told = PAGE.split(heading)[place].partition("\n\n")[0].strip().splitlines()[1:]
    assert told == [row(name, field) for name, field in fields.items()]


def row(name, field):
    """The row that a field has to have."""
    passing = ", ".join(f"`{json.dumps(value)}`" for value in field.ignorable)
    ignorable = f"; {passing} {'passes' if len(field.ignorable) == 1 else 'pass'}" if passing else ""
    return f"| `{name}` | {'honoured' if field.honoured else 'refused'} | {field.note}{ignorable} |"


def test_the_table_of_errors_is_that_of_the_code():
    assert table("| error | status | code | type | sent again |") == [
        [
            f"`{kind.error.__name__}`",
            str(kind.status),
            f"`{kind.code}`",
            f"`{kind.type}`",
            "yes" if kind.again else "no",
        ]
        for kind in KINDS
    ]


def test_every_field_of_sda_is_told_of():
    assert sorted(named(row[0] for row in table("| field | value |"))) == sorted(SDAField.model_fields)
    assert sorted(named(row[0] for row in table("| field of `sda` | |"))) == sorted(SDAResult.model_fields)


def test_every_field_of_a_card_is_told_of():
    class Engine(ScriptedEngine):
        backend, has_evaluators = "another", False

    with Engine("yes") as engine:
        models = ServedModels(engine, ServerSettings())
        card = models.card(models.name).sda
        of_itself = engine.describe().keys()
    told = named(row[0] for row in table("| field of a model's `sda` | |"))
    assert sorted(told) == sorted(card.keys() - (of_itself - {"model", "adapters"}))
    assert (card["backend"], card["evaluators"]) == ("another", False)
    assert (SteeringEngine.backend, SteeringEngine.has_evaluators) == ("sda", True)


def test_the_fields_in_which_null_means_something_are_those_of_python():
    told = PAGE.partition("where Python's None means something of its own: ")[2].partition("Of\nOpenAI's")[0]
    of_steering = [
        name for name, field in Steering.model_fields.items() if field.get_default(call_default_factory=True) is None
    ]
    others = ["alignment", "top_k", "min_p", "max_reasoning_tokens", "adapter", "timeout"]
    assert sorted(named([told])) == sorted([*of_steering, *others])


def test_the_examples_are_what_they_are_said_to_be():
    request, *alignments = EXAMPLES[:6]
    reply, token, error, card, presets = EXAMPLES[6:]
    assert ChatRequest.of(request).sda.gain == 3.0
    assert all(read_alignment(alignment, {}) is not None for alignment in alignments)
    assert whole(ChatReply, reply) == reply
    assert whole(TokenRecord, token) == token
    assert whole(ErrorReply, error) == error
    assert whole(ModelCard, card) == card
    assert sorted(card["sda"]) == sorted(named(row[0] for row in table("| field of a model's `sda` | |")))
    assert [*presets["data"][0]] == ["name", "instruction", "rubric", "avoid"]


def whole(model, example):
    """What a model reads of an example, and writes again."""
    return model.model_validate_json(json.dumps(example)).model_dump(mode="json")
