"""How a model writes tool calls and thoughts into its answers, as a response template of transformers.

A tokenizer that ships a response template is read by it. Others get the documented format, which is also that of
Hermes and Qwen: a call is <tool_call>, a newline, {"name": ..., "arguments": ...}, a newline and </tool_call>.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

CALL_BEGIN, CALL_END = "<tool_call>\n", "\n</tool_call>"
THOUGHT_BEGIN, THOUGHT_END = "<think>", "</think>"
_CALLS, _THOUGHTS, _TEXT = "tool_calls", "reasoning_content", "content"
_CALL_TRANSFORM = {"type": "function", "function": "{content}"}
_NO_ANCHOR = "\0"  # a prompt never holds it, so that the parser sees only what we hand it as prefix


@dataclass(frozen=True)
class AnswerFormat:
    """The markers of one model.

    Attributes:
        call_begin, call_end: what stands around the JSON of a call.
        call_separator: what stands between two calls.
        tools_in_template: whether the chat template itself tells the model of tools, and in this format.
        thinks: whether the model may think before it answers.
        thought_begin, thought_end: what stands around a thought.
        response_template: what transformers' ResponseParser reads answers by.
        special_tokens: markers, and what else is in the response template, that are tokens of their own: text -> id.
    """

    call_begin: str
    call_end: str
    call_separator: str
    tools_in_template: bool
    thinks: bool
    thought_begin: str
    thought_end: str
    response_template: Mapping[str, object]
    special_tokens: Mapping[str, int]

    def literal(self, text: str) -> str:
        """A text in llguidance's Lark: quoted, or the token itself where it is a special one."""
        if not text:
            return ""
        if text in self.special_tokens:
            return f"<[{self.special_tokens[text]}]>"
        for token, token_id in self.special_tokens.items():
            if token in text:
                before, _, after = text.partition(token)
                return f"{self.literal(before)} <[{token_id}]> {self.literal(after)}".strip()
        return json.dumps(text, ensure_ascii=False)

    def split_begin(self) -> tuple[str, str]:
        """The first sign of a call, which text cannot hold, and the white space that follows it."""
        marker = self.call_begin.rstrip()
        return marker, self.call_begin[len(marker) :]

    def opens_thought(self, prompt_end: str) -> bool:
        """Whether a prompt ends inside a thought, which the answer then goes on with."""
        return self.thinks and prompt_end.rstrip().endswith(self.thought_begin)

    def behind(self, prompt_end: str) -> Self:
        """How the model writes behind a prompt: with no thought where the prompt has closed one, often an empty one."""
        closed = self.thinks and prompt_end.rstrip().endswith(self.thought_end)
        return replace(self, thinks=False) if closed else self

    def template(self, *, with_tools: bool) -> dict[str, object] | None:
        """The response template for one answer; None where an answer is text and nothing else."""
        fields = dict(_mapping(self.response_template["fields"]))
        if not with_tools:
            fields.pop(_CALLS, None)
        if not self.thinks:
            fields.pop(_THOUGHTS, None)
        return {**self.response_template, "fields": fields} if set(fields) - {_TEXT} else None


def make_answer_format(
    chat_template: str, shipped: Mapping[str, object] | None, special_tokens: Mapping[str, int]
) -> AnswerFormat:
    """Find out how a model writes.

    Args:
        chat_template: its chat template; "" for none.
        shipped: its tokenizer's response template, or None.
        special_tokens: text -> id of every token that a grammar cannot write as text.
    """
    fields = _mapping(shipped["fields"]) if shipped is not None else {}
    markers = _json_call_markers(_mapping(fields.get(_CALLS, {})))
    knows_tools = "tools" in chat_template and "tool_calls" in chat_template
    if markers is None:
        tools_in_template = knows_tools and shipped is None and CALL_BEGIN.strip() in chat_template
        markers = (CALL_BEGIN, CALL_END)
    else:
        tools_in_template = knows_tools
    thought = _mapping(fields.get(_THOUGHTS, {}))
    begin, end = (thought.get(key) for key in ("open", "close"))
    known = isinstance(begin, str) and isinstance(end, str)
    thought_begin, thought_end = (str(begin), str(end)) if known else (THOUGHT_BEGIN, THOUGHT_END)
    thinks = bool(thought) or THOUGHT_BEGIN in chat_template
    response_template = _response_template(shipped, markers, (thought_begin, thought_end))
    text = json.dumps([response_template, *markers], ensure_ascii=False)
    special = {token: token_id for token, token_id in special_tokens.items() if token in text}
    return AnswerFormat(
        call_begin=markers[0],
        call_end=markers[1],
        call_separator="\n",
        tools_in_template=tools_in_template,
        thinks=thinks,
        thought_begin=thought_begin,
        thought_end=thought_end,
        response_template=response_template,
        special_tokens=special,
    )


def _json_call_markers(field: Mapping[str, object]) -> tuple[str, str] | None:
    """What a shipped template puts around a call, if a call is plain JSON of name and arguments between fixed texts.

    Calls in XML or with the name outside the JSON cannot be forced by a grammar yet; such a model gets the
    documented format.
    """
    if field.get("content") != "json" or field.get("transform") != _CALL_TRANSFORM or field.get("content_args"):
        return None
    begin = field.get("open")
    pattern = field.get("open_pattern")
    if begin is None and isinstance(pattern, str):
        plain = pattern.removeprefix(r"\s*")
        begin = plain if not set(plain) & set("\\.^$*+?{}[]|()") else None
    end = field.get("close")
    if not isinstance(begin, str) or not isinstance(end, str):
        return None
    return begin + "\n" * (not begin.endswith("\n")), "\n" * (not end.startswith("\n")) + end


def _response_template(
    shipped: Mapping[str, object] | None, markers: tuple[str, str], thought: tuple[str, str]
) -> dict[str, object]:
    """The shipped template, with the documented fields where it has none that we can force."""
    calls: dict[str, object] = {
        "open_pattern": rf"\s*{re.escape(markers[0].strip())}",
        "close": markers[1].strip(),
        "repeats": True,
        "content": "json",
        "transform": _CALL_TRANSFORM,
    }
    if shipped is None:
        thoughts = {"open": thought[0], "close_pattern": rf"{re.escape(thought[1])}\s*", "content": "text"}
        fields = {_THOUGHTS: thoughts, _CALLS: calls, _TEXT: {"content": "text"}}
        return {"start_anchor": _NO_ANCHOR, "fields": fields}
    fields = dict(_mapping(shipped["fields"]))
    if _json_call_markers(_mapping(fields.get(_CALLS, {}))) is None:
        fields[_CALLS] = calls
    return {**shipped, "fields": fields}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
