"""Output: the form that an answer has to have, as tool calls, as constrained text, or as either of the two."""

import json
from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from sda_engine.answer_format import AnswerFormat
from sda_engine.constraints import Constraint, join_grammars
from sda_engine.errors import ConfigError
from sda_engine.settings import Settings
from sda_engine.tools import Tool, resolve_tool

TOOL_CHOICES = ("auto", "none", "required", "any")
_MOST_CALLS = 16  # in one answer


class Output(Settings):
    """The form of an answer. The default is free text.

    Attributes:
        tools: what the model may call, each in any form that `sda_engine.tools.resolve_tool` knows.
        tool_choice: "auto" (text or calls, as the model chooses), "none" (text; the tools are not shown), "required"
            or "any" (at least one call), or the name of the tool to call. With "required", "any" or a name the
            grammar guarantees a valid call; with "auto" a call once begun is valid.
        parallel_tool_calls: whether one answer may hold several calls. Small models tend to repeat a call for ever
            where they may, so the default is one call at a time.
        constraint: what the text must look like. With tools and "auto", an answer is calls or such a text.
        schema_in_prompt: whether the system turn tells the model the JSON schema of the constraint.
    """

    tools: tuple[Tool, ...] = Field(default=(), description="a list of tools, no two of one name")
    tool_choice: str = Field(
        default="auto", description=f"one of {', '.join(TOOL_CHOICES)}, or the name of one of the tools"
    )
    parallel_tool_calls: bool = Field(default=False, description="True or False")
    constraint: Constraint | None = Field(default=None, description="a Constraint, or None")
    schema_in_prompt: bool = Field(default=True, description="True or False")

    @field_validator("tools", mode="before")
    @classmethod
    def _as_tools(cls, tools: object) -> object:
        return tuple(map(resolve_tool, tools)) if isinstance(tools, (list, tuple)) else tools

    @field_validator("tools")
    @classmethod
    def _has_unique_names(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        if len({tool.name for tool in tools}) < len(tools):
            raise ValueError("two tools of one name")
        return tools

    @model_validator(mode="after")
    def _choice_names_a_tool(self) -> "Output":
        names = [tool.name for tool in self.tools]
        if self.tool_choice not in (*TOOL_CHOICES, *names):
            raise ConfigError(
                f"Output.tool_choice cannot be {self.tool_choice!r}: it must be one of {', '.join(TOOL_CHOICES)}, or "
                f"the name of one of the tools ({', '.join(names) or 'there are none'})."
            )
        if self.tool_choice in ("required", "any") and not names:
            raise ConfigError(f"Output.tool_choice={self.tool_choice!r} needs tools: give at least one.")
        return self

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that this answer may call."""
        if self.tool_choice == "none":
            return ()
        named = tuple(tool for tool in self.tools if tool.name == self.tool_choice)
        return named or self.tools

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return bool(self.callable_tools) and self.tool_choice != "auto"

    @property
    def schema_prompt(self) -> str | None:
        """What the system turn says about the constraint's JSON schema; None where it says nothing."""
        constraint = self.constraint
        if constraint is None or constraint.kind != "json_schema" or not self.schema_in_prompt or self.must_call:
            return None
        return f"Answer with JSON that fits this JSON schema: {constraint.source}"

    def grammar(self, answer_format: AnswerFormat, *, thought_is_open: bool = False) -> str | None:
        """The grammar of the whole answer for llguidance; None for free text.

        Args:
            answer_format: how the model writes calls and thoughts.
            thought_is_open: whether the prompt ends inside a thought.
        """
        tools = self.callable_tools
        if not tools and self.constraint is None:
            return None
        choices, rules, more_calls = [], [], ""
        if tools:
            more_calls = f" (separator call){{0,{_MOST_CALLS - 1}}}" if self.parallel_tool_calls else ""
            choices.append("call" + more_calls)
            rules = _call_rules(tools, answer_format)
        if self.constraint is not None and not self.must_call:
            choices.append("@answer")
        elif tools and not self.must_call:
            return _free_text_or_calls(more_calls, rules, answer_format, list(map(tool_grammar, tools)))
        start = _after_thought(answer_format, thought_is_open)
        main = "\n".join([f"start: {start[0]} body", f"body: {' | '.join(choices)}", *start[1], *rules])
        answer = [self.constraint.grammar("answer")] if "@answer" in choices and self.constraint is not None else []
        return join_grammars({"name": "main", "lark_grammar": main}, *answer, *map(tool_grammar, tools))


def tool_grammar(tool: Tool) -> dict[str, object]:
    """The grammar of a tool's arguments, by a name that suits any tool."""
    return Constraint.json_schema({"type": "object", **tool.parameters}).grammar(_grammar_name(tool))


def _grammar_name(tool: Tool) -> str:
    return "tool_" + tool.name.encode().hex()


def _call_rules(tools: Sequence[Tool], answer_format: AnswerFormat) -> list[str]:
    begin, end = answer_format.call_begin, answer_format.call_end
    bodies = [
        f"{json.dumps(_body_begin(tool), ensure_ascii=False)} @{_grammar_name(tool)} {json.dumps('}')}"
        for tool in tools
    ]
    return [
        f"call: {answer_format.literal(begin)} arguments {answer_format.literal(end)}",
        f"arguments: {' | '.join(bodies)}",
        f"separator: {json.dumps(answer_format.call_separator)}",
    ]


def _body_begin(tool: Tool) -> str:
    return f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '


def _free_text_or_calls(
    more_calls: str, rules: Sequence[str], answer_format: AnswerFormat, grammars: Sequence[dict[str, object]]
) -> str:
    """Text in which the first marker of a call begins one; after it come more calls, or the end."""
    marker, rest = answer_format.split_begin()
    if marker in answer_format.special_tokens:
        first, opening = f"TEXT? {answer_format.literal(marker)}", []
    else:  # a lazy lexeme ends as soon as it can, so no text gets past the marker
        first, opening = "opening", [f"opening[lazy]: TEXT {answer_format.literal(marker)}"]
    rest_of_call = f"{answer_format.literal(rest)} arguments {answer_format.literal(answer_format.call_end)}"
    main = "\n".join(
        [
            f"start: text | {first} {rest_of_call}{more_calls}",
            "text: TEXT",
            *opening,
            r"TEXT: /(.|\n)*/",
            *rules,
        ]
    )
    return join_grammars({"name": "main", "lark_grammar": main}, *grammars)


def _after_thought(answer_format: AnswerFormat, thought_is_open: bool) -> tuple[str, list[str]]:
    """The part of a grammar that lets a model think before an answer of a given form: a prefix, and its rules."""
    if not answer_format.thinks:
        return "", []
    begin, end = answer_format.thought_begin, answer_format.thought_end
    rules = [r"TEXT: /(.|\n)*/", r"BLANK: /\s*/"]
    if end in answer_format.special_tokens:
        thought = f"TEXT {answer_format.literal(end)} BLANK"
    else:
        thought = "thought BLANK"
        rules.append(f"thought[lazy]: TEXT {answer_format.literal(end)}")
    return (thought if thought_is_open else f"({answer_format.literal(begin)} {thought})?"), rules
