"""Files of pairs."""

import json

import pytest

from sda_engine import PRESETS, Alignment
from sda_engine.errors import ConfigError
from sda_engine.evaluation import RatedPair, read_pairs

LINE = '{"query": "hi", "response": "ho"}'


@pytest.fixture
def read(tmp_path):
    def read(*lines, alignment="honesty", **settings):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return read_pairs(path, alignment, **settings)

    return read


def test_a_query_is_a_chat_of_one_user_turn(read):
    (pair,) = read('{"query": "héllo", "response": "ho", "label": true, "score": 7}')
    assert pair == RatedPair(
        messages=({"role": "user", "content": "héllo"},),
        response="ho",
        alignment=PRESETS["honesty"],
        label=True,
        score=7,
    )


def test_messages_may_stand_in_place_of_a_query(read):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    (pair,) = read(json.dumps({"messages": messages, "response": ""}))
    assert list(pair.messages) == messages
    assert (pair.response, pair.label, pair.score) == ("", None, None)


def test_a_line_may_name_its_own_alignment(read):
    own, named, several = read(
        '{"query": "a", "response": "b", "alignment": "Be calm."}',
        '{"query": "a", "response": "b", "alignment": "empathy"}',
        '{"query": "a", "response": "b", "alignment": {"empathy": 2, "Be calm.": 0.5}}',
    )
    assert own.alignment == Alignment(instruction="Be calm.")
    assert named.alignment == PRESETS["empathy"]
    assert several.alignment == Alignment.combine({"empathy": 2, "Be calm.": 0.5})


def test_blank_lines_are_skipped_and_a_limit_ends_the_reading(read):
    assert len(read(LINE, "", "  ", LINE, "")) == 2
    assert len(read(LINE, "", LINE, "nonsense", limit=2)) == 2


def test_a_line_separator_inside_a_text_ends_no_line(read):
    (pair,) = read('{"query": "a\u2028b\x85c", "response": "d"}')
    assert pair.messages[0]["content"] == "a\u2028b\x85c"


def test_pairs_with_the_same_chat_share_their_prompt(read):
    first, second, other = read(LINE, LINE.replace("ho", "hum"), LINE.replace("hi", "hey"))
    assert first.prompt == second.prompt != other.prompt


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", ("no JSON", "one JSON object a line")),
        ("[" * 100_000, ("no JSON",)),
        ("[1]", ("[1]", "must be an object")),
        ('{"query": "a"}', ("response is missing",)),
        ('{"response": "a"}', ('"query"', '"messages"')),
        ('{"query": "a", "messages": [], "response": "b"}', ("not both",)),
        ('{"query": "", "response": "b"}', ("query", "at least one character")),
        ('{"messages": [], "response": "b"}', ("messages is empty",)),
        ('{"messages": [{"role": "wizard", "content": "a"}], "response": "b"}', ("wizard",)),
        ('{"messages": "a", "response": "b"}', ("a list of chat messages",)),
        ('{"query": "a", "response": 3}', ("response cannot be 3",)),
        ('{"query": "a", "response": "b", "label": "yes"}', ("label cannot be 'yes'", "true or false")),
        ('{"query": "a", "response": "b", "label": 1}', ("label cannot be 1",)),
        ('{"query": "a", "response": "b", "score": 0}', ("score cannot be 0", "from 1 to 100")),
        ('{"query": "a", "response": "b", "score": 101}', ("101",)),
        ('{"query": "a", "response": "b", "score": NaN}', ("nan",)),
        ('{"query": "a", "response": "b", "lable": true}', ("'lable'", "Did you mean 'label'?")),
        ('{"query": "a", "response": "b", "alignment": " "}', ("blank",)),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(read, line, words):
    with pytest.raises(ConfigError, match=r"pairs\.jsonl, line 3: ") as caught:
        read(LINE, "", line)
    for word in words:
        assert word in str(caught.value)


def test_a_file_without_a_pair_is_refused(read):
    with pytest.raises(ConfigError, match="holds no pair"):
        read("", " ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pairs(tmp_path / "missing.jsonl", "honesty")
    (tmp_path / "latin1.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_pairs(tmp_path / "latin1.jsonl", "honesty")
