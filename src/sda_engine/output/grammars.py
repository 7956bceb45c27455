"""Grammars of whole answers for llguidance: tool calls, constrained text, free text, and what may stand beside what."""

import json
from collections.abc import Sequence

from sda_engine.output.constraints import Constraint, join_grammars
from sda_engine.output.tools import Tool
from sda_engine.tokens import AnswerFormat

_MOST_CALLS = 16  # in one answer
_ANY_TEXT = r"TEXT: /(.|\n)*/"


def calls_or_text(
    tools: Sequence[Tool],
    text: Constraint | None,
    answer_format: AnswerFormat,
    *,
    several: bool,
    thought_is_open: bool,
    strict: bool,
) -> str:
    """An answer that is calls of tools, where there are any, or a constrained text, where there is one.

    Args:
        tools: what may be called.
        text: what the text must look like.
        answer_format: how the model writes calls and thoughts. A model that thinks may do so before such an answer.
        several: whether an answer may hold several calls.
        thought_is_open: whether the prompt ends inside a thought.
        strict: whether a schema that cannot be enforced as it is is refused.
    """
    choices = [f"call{_more_calls(several)}"] if tools else []
    grammars = _arguments_grammars(tools, strict)
    if text is not None:
        choices.append("@answer")
        grammars.append(text.grammar("answer", strict=strict))
    thought, thought_rules = _thought(answer_format, thought_is_open)
    rules = [
        f"start: {thought} body",
        f"body: {' | '.join(choices)}",
        *thought_rules,
        *_call_rules(tools, answer_format),
    ]
    return join_grammars({"name": "main", "lark_grammar": "\n".join(rules)}, *grammars)


def free_text_or_calls(
    tools: Sequence[Tool], answer_format: AnswerFormat, *, several: bool, thought_is_open: bool, strict: bool
) -> str:
    """Free text, in which the first marker of a call begins one; after it come more calls, or the end.

    Arguments are those of `calls_or_text`. A thought between markers that are text is part of the free text.
    """
    marker, rest = answer_format.split_begin()
    literal = answer_format.literal
    if marker in answer_format.special_tokens:  # which text cannot hold
        opening = f"opening: TEXT? {literal(marker)}"
    else:  # a lazy lexeme ends as soon as it can, so no text gets past the marker
        opening = f"opening[lazy]: TEXT {literal(marker)}"
    thought, thought_rules = "", [_ANY_TEXT]
    if answer_format.thought_end in answer_format.special_tokens:
        thought, thought_rules = _thought(answer_format, thought_is_open)
    rules = [
        f"start: {thought} body",
        f"body: text | opening {literal(rest)} arguments {literal(answer_format.call_end)}{_more_calls(several)}",
        "text: TEXT",
        opening,
        *(thought_rules or [_ANY_TEXT]),
        *_call_rules(tools, answer_format),
    ]
    return join_grammars({"name": "main", "lark_grammar": "\n".join(rules)}, *_arguments_grammars(tools, strict))


def _more_calls(several: bool) -> str:
    return f" (separator call){{0,{_MOST_CALLS - 1}}}" if several else ""


def _call_rules(tools: Sequence[Tool], answer_format: AnswerFormat) -> list[str]:
    if not tools:
        return []
    bodies = [f"{_quoted(_up_to_arguments(tool))} @{_grammar_name(tool)} {_quoted('}')}" for tool in tools]
    begin, end = answer_format.literal(answer_format.call_begin), answer_format.literal(answer_format.call_end)
    return [
        f"call: {begin} arguments {end}",
        f"arguments: {' | '.join(bodies)}",
        f"separator: {_quoted(answer_format.call_separator)}",
    ]


def _up_to_arguments(tool: Tool) -> str:
    return f'{{"name": {_quoted(tool.name)}, "arguments": '


def _arguments_grammars(tools: Sequence[Tool], strict: bool) -> list[dict[str, object]]:
    return [tool.arguments.grammar(_grammar_name(tool), strict=strict) for tool in tools]


def _grammar_name(tool: Tool) -> str:
    """A name that Lark takes, whatever the tool is called."""
    return "tool_" + tool.name.encode().hex()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _thought(answer_format: AnswerFormat, is_open: bool) -> tuple[str, list[str]]:
    """What lets a model think before an answer of a given form: a prefix for it, and the rules of the prefix."""
    if not answer_format.thinks:
        return "", []
    end = answer_format.literal(answer_format.thought_end)
    rules = [_ANY_TEXT, r"BLANK: /\s*/"]
    if answer_format.thought_end in answer_format.special_tokens:
        thought = f"TEXT {end} BLANK"
    else:
        thought = "thought BLANK"
        rules.append(f"thought[lazy]: TEXT {end}")
    return (thought if is_open else f"({answer_format.literal(answer_format.thought_begin)} {thought})?"), rules
