import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.answer_parser import AnswerParser
from sda_engine.decoding.detokenizer import StopChecker
from sda_engine.results.completion import Delta
from sda_engine.tokens.answer_format import make_answer_format

QWEN3 = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}
FORMATS = {
    "documented": make_answer_format("", None, {}),
    "thinks": make_answer_format("<think>", None, {}),
    "shipped": make_answer_format("", QWEN3, {}),
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": {"c": []}}}\n</tool_call>'
HOSTILE = ["</tool_call>", "<tool_call>", "<think>", '\\"}}', "{", "}", "\\", "\u2028", "\U0001f600", "<", "\n", " }"]

pieces_of_text = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=5).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | pieces_of_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(pieces_of_text, inner, max_size=3),
    max_leaves=6,
)
arguments_ = st.dictionaries(pieces_of_text, values, max_size=3)
calls_ = st.lists(st.tuples(st.sampled_from(["add", "tag.it-1", "имя"]), arguments_), min_size=1, max_size=3)
styles = st.sampled_from([{}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"indent": 1}])


def parse(chunks, *, kind="documented", prefix="", stop=(), with_tools=True, must_call=False):
    answer_format = FORMATS[kind]
    template = answer_format.template(with_tools=with_tools)
    end = answer_format.call_end.strip()
    parser = AnswerParser(template, prefix, StopChecker(stop), call_end=end, must_call=must_call)
    delta = Delta()
    for chunk in chunks:
        delta += parser.push(chunk)
    return parser, delta + parser.flush()


def functions(parser):
    return [(call["function"]["name"], call["function"]["arguments"]) for call in parser.tool_calls]


def cut(text, places):
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


def streamed(delta, parser):
    """The calls as somebody sees them who has only the deltas."""
    seen = []
    for index, call in enumerate(parser.tool_calls):
        mine = [piece for piece in delta.tool_calls if piece.index == index]
        assert (mine[0].id, mine[0].name) == (call["id"], call["function"]["name"])
        assert [(piece.id, piece.name) for piece in mine[1:]] == [(None, None)] * (len(mine) - 1)
        seen.append("".join(piece.arguments for piece in mine))
    assert len({piece.index for piece in delta.tool_calls}) == len(seen)
    return seen


# --- calls


@given(calls=calls_, style=styles, places=st.lists(st.integers(min_value=0, max_value=10_000), max_size=30))
def test_any_calls_cut_anywhere_are_parsed_and_streamed_as_what_they_are(calls, style, places):
    bodies = [json.dumps({"name": name, "arguments": arguments}, **style) for name, arguments in calls]
    answer = "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)
    parser, delta = parse(cut(answer, places))
    assert functions(parser) == calls
    assert [json.loads(arguments) for arguments in streamed(delta, parser)] == [arguments for _, arguments in calls]
    assert (delta.text, delta.reasoning, parser.invalid_tool_calls) == ("", "", [])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_arguments_join_to_exactly_the_json_that_was_written_for_every_size_of_piece(kind, size):
    chunks = [CALL[start : start + size] for start in range(0, len(CALL), size)]
    parser, delta = parse(chunks, kind=kind)
    assert streamed(delta, parser) == ['{"a": 1, "b": {"c": []}}']
    assert functions(parser) == [("add", {"a": 1, "b": {"c": []}})]


def test_arguments_are_streamed_as_soon_as_they_are_certain():
    template = FORMATS["documented"].template(with_tools=True)
    parser = AnswerParser(template, "", StopChecker(()), call_end="</tool_call>")
    begun = parser.push('<tool_call>\n{"name": "add", "arguments": {"text": "hello')
    (first,) = [piece for piece in begun.tool_calls if piece.name is not None]
    assert first.name == "add"
    assert "".join(piece.arguments for piece in begun.tool_calls) == '{"text": "hello'
    assert parser.push('"}').tool_calls[0].arguments == '"'
    assert parser.tool_calls == []


@pytest.mark.parametrize("text", HOSTILE)
def test_a_marker_inside_the_json_of_a_call_is_no_marker(text):
    body = json.dumps({"name": "say", "arguments": {"t": text, text: 1}}, ensure_ascii=False)
    parser, delta = parse(list(f"<tool_call>\n{body}\n</tool_call>"))
    assert functions(parser) == [("say", {"t": text, text: 1})]
    assert json.loads(streamed(delta, parser)[0]) == {"t": text, text: 1}


def test_several_calls_have_places_and_ids_of_their_own():
    parser, delta = parse(["\n".join([CALL, CALL.replace("add", "sub"), CALL])])
    assert [name for name, _ in functions(parser)] == ["add", "sub", "add"]
    assert [piece.index for piece in delta.tool_calls if piece.id is not None] == [0, 1, 2]
    assert len({call["id"] for call in parser.tool_calls}) == 3


@pytest.mark.parametrize(
    ("body", "function"),
    [
        ('{"name": "now", "arguments": {}}', ("now", {})),
        ('{"name":"now","parameters":{"a":1}}', ("now", {"a": 1})),
        ('{"arguments": {"a": 1}, "name": "now"}', ("now", {"a": 1})),
        ('{"name": "now"}', ("now", {})),
        ('{"name": "n\\u00f6w", "arguments": {"a": "}"}}', ("nöw", {"a": "}"})),
        ('  {  "name" : "now" , "arguments" :  {"a" : [ ] }  }  ', ("now", {"a": []})),
        ('{"name": "now", "arguments": "{\\"a\\": 1}"}', ("now", {"a": 1})),
    ],
)
def test_a_call_is_read_in_every_way_that_models_write_json(body, function):
    parser, delta = parse(list(f"<tool_call>{body}</tool_call>"))
    assert functions(parser) == [function]
    assert json.loads(streamed(delta, parser)[0]) == function[1]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('<tool_call>\n{"name": "add", "arg', '\n{"name": "add", "arg'),
        ('<tool_call>\n{"name": "add", "arguments": {"a": "x', '\n{"name": "add", "arguments": {"a": "x'),
        ("<tool_call>\nadd(1)\n</tool_call>", "\nadd(1)\n"),
        ("<tool_call>[1]</tool_call>", "[1]"),
        ('<tool_call>{"arguments": {}}</tool_call>', '{"arguments": {}}'),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', '{"name": "add", "arguments": [1]}'),
    ],
)
def test_a_call_that_is_none_or_was_cut_off_is_kept_as_an_invalid_one(written, text):
    parser, _ = parse(list(written))
    assert parser.tool_calls == []
    (call,) = parser.invalid_tool_calls
    assert call["text"] == text
    assert call["error"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_call_that_ends_right_after_its_marker_is_an_invalid_one_without_text(kind):
    parser, delta = parse(["<tool_call>"], kind=kind)
    assert parser.tool_calls == []
    (call,) = parser.invalid_tool_calls
    assert (call["text"], call["name"]) == ("", None)
    assert call["id"]
    assert call["error"]
    assert (delta.text, delta.tool_calls) == ("", ())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("begun", ["", "<", "<tool_ca"])
def test_a_forced_call_that_is_cut_off_in_its_marker_is_an_invalid_one_and_no_text(kind, begun):
    parser, delta = parse([begun], kind=kind, must_call=True)
    (call,) = parser.invalid_tool_calls
    assert (call["text"], call["name"], delta.text) == ("", None, "")
    parser, delta = parse([begun], kind=kind)
    assert (parser.invalid_tool_calls, delta.text) == ([], begun)


def test_a_call_before_the_one_that_was_cut_off_stays_valid():
    parser, _ = parse([CALL, '\n<tool_call>\n{"name": "su'])
    assert [name for name, _ in functions(parser)] == ["add"]
    assert len(parser.invalid_tool_calls) == 1


# --- text and thoughts


@given(text=pieces_of_text, places=st.lists(st.integers(min_value=0, max_value=50), max_size=8))
def test_without_a_template_text_is_text_whatever_it_holds(text, places):
    parser, delta = parse(cut(text, places), with_tools=False)
    assert (delta.text, delta.reasoning, delta.tool_calls) == (text, "", ())
    assert parser.tool_calls == []


@pytest.mark.parametrize("size", [1, 4, 1_000])
@pytest.mark.parametrize("kind", FORMATS)
def test_text_may_stand_before_a_call(kind, size):
    answer = f"Let me see: a < b.\n{CALL}"
    parser, delta = parse([answer[start : start + size] for start in range(0, len(answer), size)], kind=kind)
    assert delta.text == "Let me see: a < b."
    assert [name for name, _ in functions(parser)] == ["add"]


@pytest.mark.parametrize("kind", ["thinks", "shipped"])
@pytest.mark.parametrize("opened_by", ["model", "prompt"])
@pytest.mark.parametrize("with_tools", [True, False])
def test_a_thought_is_told_apart_from_what_is_said(kind, opened_by, with_tools):
    thought, prefix = ("<think>hm <tool_ b", "") if opened_by == "model" else ("hm <tool_ b", "<think>")
    parser, delta = parse(list(f"{thought}</think>Yes."), kind=kind, prefix=prefix, with_tools=with_tools)
    assert (delta.reasoning, delta.text) == ("hm <tool_ b", "Yes.")
    assert parser.tool_calls == []


def test_a_thought_may_be_followed_by_a_call_and_may_hold_its_markers():
    parser, delta = parse(list(f"<think>{CALL}</think>\n\n{CALL}"), kind="thinks")
    assert (delta.reasoning, delta.text) == (CALL, "")
    assert len(parser.tool_calls) == 1


def test_a_thought_that_never_ends_is_reasoning_to_its_last_character():
    _, delta = parse(["<think>hm</thin"], kind="thinks")
    assert (delta.reasoning, delta.text) == ("hm</thin", "")


def test_a_model_that_does_not_think_may_write_about_thoughts():
    _, delta = parse(list("<think>x</think>y"), kind="documented")
    assert (delta.reasoning, delta.text) == ("", "<think>x</think>y")


# --- stop strings


@pytest.mark.parametrize("size", [1, 3, 1_000])
@pytest.mark.parametrize(
    ("answer", "stopped", "text"),
    [
        ("one END two", True, "one "),
        ("<think>END</think>one END two", True, "one "),
        ("<think>END</think>one", False, "one"),
        ('<tool_call>\n{"name": "END", "arguments": {"END": "END"}}\n</tool_call>', False, ""),
        ("one EN", False, "one EN"),
    ],
    ids=["content", "after a thought", "thought", "call", "unfinished"],
)
def test_stop_strings_are_found_in_content_only(answer, stopped, text, size):
    chunks = [answer[start : start + size] for start in range(0, len(answer), size)]
    parser, delta = parse(chunks, kind="thinks", stop=("END",))
    assert (parser.stopped, delta.text) == (stopped, text)
    assert len(parser.tool_calls) == ("tool_call" in answer)


# --- regions


def regions_of(chunks, *, kind="documented", prefix="", with_tools=True, **settings):
    """The region of each piece, told before it comes, and the one after the last."""
    template = FORMATS[kind].template(with_tools=with_tools)
    end = FORMATS[kind].call_end.strip()
    parser = AnswerParser(template, prefix, StopChecker(()), call_end=end, **settings)
    regions = []
    for chunk in chunks:
        regions.append(parser.region)
        parser.push(chunk)
    return [*regions, parser.region]


@pytest.mark.parametrize("kind", ["thinks", "shipped"])
@pytest.mark.parametrize("opening", [["<think>"], ["<th", "ink", ">"], list("<think>")])
@pytest.mark.parametrize("closing", [["</think>"], ["</", "think>"], list("</think>")])
def test_a_marker_is_in_the_region_in_which_it_begins(kind, opening, closing):
    regions = regions_of([*opening, "hm", *closing, "Yes", "."], kind=kind)
    expected = ["text"] * len(opening) + ["thought"] * (1 + len(closing)) + ["text"] * 3
    assert regions == expected


@pytest.mark.parametrize("kind", ["thinks", "shipped"])
@pytest.mark.parametrize("region", ["text", "structured"])
def test_a_thought_that_the_prompt_has_opened_is_one_from_the_first_token(kind, region):
    regions = regions_of(["hm", "</think>", "\n\n", "Yes"], kind=kind, prefix="<think>", text_region=region)
    assert regions == ["thought", "thought", region, region, region]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("marker", [["<tool_call>"], ["\n<tool", "_call>"]])
def test_a_call_reaches_from_its_marker_to_its_end(kind, marker):
    body = ['\n{"name": "say", "arguments": {"t": "', "</tool_call>", "<think>", '"}}', "\n</tool", "_call>"]
    regions = regions_of(["Hm.", *marker, *body, "\n", "Done"], kind=kind)
    assert regions == ["text"] * (1 + len(marker)) + ["call"] * len(body) + ["text"] * 3


def test_a_thought_inside_a_call_and_a_call_inside_a_thought_are_none():
    chunks = ["<think>", "<tool_call>", "x", "</think>", "<tool_call>", '{"name": "<think>', '"}', "</tool_call>"]
    thought = ["text", "thought", "thought", "thought"]
    assert regions_of(chunks, kind="thinks") == [*thought, "text", "call", "call", "call", "text"]


def test_text_is_what_it_was_said_to_be_where_nothing_else_can_be():
    assert regions_of(["<think>", "a"], with_tools=False) == ["text"] * 3
    assert regions_of(["<think>", "a"], with_tools=False, text_region="structured") == ["structured"] * 3
    assert regions_of(["<tool_call>", "\n"], text_region="call") == ["call"] * 3


def test_a_pattern_that_looks_for_the_end_of_the_answer_or_its_beginning_finds_no_other():
    fields = {
        "reasoning_content": {"open_pattern": r"^<think>", "close_pattern": r"\s*(?:</think>|$)", "content": "text"},
        "content": {"content": "text"},
    }
    parser = AnswerParser({"start_anchor": "\0", "fields": fields}, "", StopChecker(()))
    regions = []
    for piece in ["<think>", "so ", "\n", "</think>", "<think>", "a" * 300, "<think>", "b"]:
        regions.append(parser.region)
        parser.push(piece)
    assert [*regions, parser.region] == ["text", "thought", "thought", "thought", *["text"] * 5]


def test_what_follows_an_invalid_call_is_text():
    assert regions_of(["<tool_call>", "[1]", "</tool_call>", "a"]) == ["text", "call", "call", "text", "text"]


@pytest.mark.parametrize(
    ("kind", "with_tools", "regions"),
    [
        ("documented", False, {"text"}),
        ("documented", True, {"text", "call"}),
        ("thinks", False, {"text", "thought"}),
        ("shipped", True, {"text", "thought", "call"}),
    ],
)
def test_an_answer_has_the_regions_of_its_template(kind, with_tools, regions):
    parser = AnswerParser(FORMATS[kind].template(with_tools=with_tools), "", StopChecker(()))
    assert parser.regions == regions


@given(answer=pieces_of_text, places=st.lists(st.integers(min_value=0, max_value=50), max_size=8))
def test_regions_are_those_that_the_text_is_sorted_into(answer, places):
    """Whatever is given out with a piece, all of it belongs to regions that were open while it came."""
    template = FORMATS["thinks"].template(with_tools=True)
    parser = AnswerParser(template, "", StopChecker(()), call_end="</tool_call>")
    for chunk in cut(answer, places):
        for char in chunk:
            before = parser.region
            delta = parser.push(char)
            if delta.reasoning:
                assert "thought" in (before, parser.region)
