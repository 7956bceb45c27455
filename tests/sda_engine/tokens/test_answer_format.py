import pytest

from sda_engine.testing import CHAT_TEMPLATE, tiny_tokenizer
from sda_engine.tokens.answer_format import make_answer_format
from sda_engine.tokens.tokenizer import SafeTokenizer

TRANSFORM = {"type": "function", "function": "{content}"}
CONTENT = {"close_pattern": r"\s*<\|im_end\|>", "content": "text"}
THOUGHTS = {"open": "<think>", "close": "</think>", "content": "text"}
JSON_CALLS = {"close": "</tool_call>", "repeats": True, "content": "json", "transform": TRANSFORM}
XML_CALLS = {
    "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
    "close_pattern": r"</function>\s*</tool_call>",
    "repeats": True,
    "content": "xml-inline",
    "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
}
NAME_OUTSIDE = {
    "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
    "close": "<tool_call|>",
    "repeats": True,
    "content": "json",
    "content_args": {"unquoted_keys": True},
    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
}
KNOWS_TOOLS = "{{ tools }}{{ message.tool_calls }}"
DOCUMENTED = ("<tool_call>\n", "\n</tool_call>")


def shipped(**fields):
    return {"defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n", "fields": fields}


def markers(answer_format):
    return (answer_format.call_begin, answer_format.call_end)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ({**JSON_CALLS, "open": "<tool_call>"}, DOCUMENTED),
        ({**JSON_CALLS, "open_pattern": r"\s*<tool_call>"}, DOCUMENTED),
        ({**JSON_CALLS, "open": "[CALL]\n", "close": "\n[/CALL]"}, ("[CALL]\n", "\n[/CALL]")),
        ({**JSON_CALLS, "open": "<|call|>", "close": "<|end|>"}, ("<|call|>\n", "\n<|end|>")),
    ],
    ids=["open", "pattern with leading space", "brackets", "bars"],
)
def test_calls_of_plain_json_keep_the_markers_that_the_model_ships(calls, expected):
    answer_format = make_answer_format(KNOWS_TOOLS, shipped(tool_calls=calls, content=CONTENT), {})
    assert markers(answer_format) == expected
    assert answer_format.tools_in_template
    assert answer_format.response_template["fields"]["tool_calls"] == calls


@pytest.mark.parametrize(
    "calls",
    [
        XML_CALLS,
        NAME_OUTSIDE,
        {**JSON_CALLS, "open_pattern": r"<tool_call>(\d+)"},
        {**JSON_CALLS, "open": ["<a>", "<b>"]},
        {**JSON_CALLS, "open": "<tool_call>", "content_args": {"unquoted_keys": True}},
        {**JSON_CALLS, "open": "<tool_call>", "transform": {"function": {"name": "{content.tool}"}}},
        {"open": "<tool_call>", "close_pattern": "</tool_call>|$", "content": "json", "transform": TRANSFORM},
    ],
    ids=["XML", "name outside", "open by pattern", "several opens", "lax JSON", "other transform", "close by pattern"],
)
def test_calls_that_no_grammar_can_force_yet_fall_back_to_the_documented_format(calls):
    given = shipped(tool_calls=calls, content=CONTENT)
    answer_format = make_answer_format(KNOWS_TOOLS + "<tool_call>", given, {})
    assert markers(answer_format) == DOCUMENTED
    assert not answer_format.tools_in_template
    field = answer_format.response_template["fields"]["tool_calls"]
    assert (field["content"], field["transform"], field["close"]) == ("json", TRANSFORM, "</tool_call>")
    assert answer_format.response_template["fields"]["content"] == CONTENT
    assert given["fields"]["tool_calls"] == calls


@pytest.mark.parametrize(
    ("template", "knows"),
    [
        ("", False),
        (CHAT_TEMPLATE, False),
        (KNOWS_TOOLS, False),
        (KNOWS_TOOLS + "[CALL]", False),
        (KNOWS_TOOLS + "<tool_call>", True),
    ],
)
def test_tools_are_left_to_a_chat_template_that_writes_the_documented_format(template, knows):
    answer_format = make_answer_format(template, None, {})
    assert markers(answer_format) == DOCUMENTED
    assert answer_format.tools_in_template == knows


@pytest.mark.parametrize(
    ("template", "given", "expected"),
    [
        ("", None, (False, "<think>", "</think>")),
        ("... <think> ...", None, (True, "<think>", "</think>")),
        ("", shipped(content=CONTENT), (False, "<think>", "</think>")),
        ("", shipped(reasoning_content=THOUGHTS, content=CONTENT), (True, "<think>", "</think>")),
        (
            "",
            shipped(reasoning_content={**THOUGHTS, "open": "[T]", "close": "[/T]"}, content=CONTENT),
            (True, "[T]", "[/T]"),
        ),
    ],
    ids=["none", "in the chat template", "shipped without", "shipped with", "shipped with others"],
)
def test_a_model_thinks_where_its_templates_say_so(template, given, expected):
    answer_format = make_answer_format(template, given, {})
    assert (answer_format.thinks, answer_format.thought_begin, answer_format.thought_end) == expected


@pytest.mark.parametrize(
    ("template", "with_tools", "fields"),
    [
        ("", False, None),
        ("", True, {"tool_calls", "content"}),
        ("<think>", False, {"reasoning_content", "content"}),
        ("<think>", True, {"reasoning_content", "tool_calls", "content"}),
    ],
)
def test_an_answer_is_sorted_into_no_more_than_it_can_hold(template, with_tools, fields):
    made = make_answer_format(template, None, {}).template(with_tools=with_tools)
    assert fields == (None if made is None else set(made["fields"]))


def test_a_literal_is_a_quoted_text_or_the_special_token_itself():
    answer_format = make_answer_format("", None, {"<tool_call>": 320, "</tool_call>": 321, "<|im_end|>": 2})
    assert answer_format.special_tokens == {"<tool_call>": 320, "</tool_call>": 321}
    literals = {
        "": "",
        "<tool_call>": "<[320]>",
        "<tool_call>\n": '<[320]> "\\n"',
        "\n</tool_call>": '"\\n" <[321]>',
        '"quoted" ü': '"\\"quoted\\" ü"',
        "<|im_end|>": '"<|im_end|>"',
    }
    assert {text: answer_format.literal(text) for text in literals} == literals
    assert answer_format.split_begin() == ("<tool_call>", "\n")


@pytest.mark.parametrize("known", [None, shipped(tool_calls={**JSON_CALLS, "open": "[C]"}, content=CONTENT)])
def test_a_tokenizer_is_read_by_the_template_it_ships(known):
    tokenizer = tiny_tokenizer()
    if known is not None:
        tokenizer.response_template = known
    begin = SafeTokenizer(tokenizer).answer_format.call_begin
    assert begin == ("<tool_call>\n" if known is None else "[C]\n")
