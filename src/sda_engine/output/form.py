"""Output: the form that an answer has to have, as tool calls, as constrained text, or as either of the two."""

import json

from pydantic import Field, field_validator, model_validator

from sda_engine.errors import ConfigError, InvalidOutputError
from sda_engine.output.constraints import Constraint
from sda_engine.output.grammars import calls_or_text, free_text_or_calls
from sda_engine.output.tools import FunctionCall, Tool, resolve_tool
from sda_engine.settings import Settings
from sda_engine.tokens import AnswerFormat

TOOL_CHOICES = ("auto", "none", "required", "any")


class Output(Settings):
    """The form of an answer. The default is free text.

    Attributes:
        tools: what the model may call, each in any form that `sda_engine.output.tools.resolve_tool` knows.
        tool_choice: "auto" (text or calls, as the model chooses), "none" (text; the tools are not shown), "required"
            or "any" (at least one call), or the name of the tool to call. With "required", "any" or a name the
            grammar guarantees a valid call; with "auto" a call once begun is valid.
        parallel_tool_calls: whether one answer may hold several calls. Small models tend to repeat a call for ever
            where they may, so the default is one call at a time.
        constraint: what the text must look like. With tools and "auto", an answer is calls or such a text.
        schema_in_prompt: whether the system turn tells the model the JSON schema of the constraint.
        strict: whether a JSON schema, of a tool or of the text, is refused where a grammar cannot enforce all of it.
            Otherwise such parts are left out of the grammar, told of in a LoosenedSchemaWarning, and checked in the
            answer: a text that does not fit is an InvalidOutputError, a call that does not is an invalid one.
    """

    tools: tuple[Tool, ...] = Field(default=(), description="a list of tools, no two of one name")
    tool_choice: str = Field(
        default="auto", description=f"one of {', '.join(TOOL_CHOICES)}, or the name of one of the tools"
    )
    parallel_tool_calls: bool = Field(default=False, description="True or False")
    constraint: Constraint | None = Field(default=None, description="a Constraint, or None")
    schema_in_prompt: bool = Field(default=True, description="True or False")
    strict: bool = Field(default=False, description="True or False")

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
                f"the name of one of the tools ({', '.join(names) or 'there are none'}).",
                field="tool_choice",
            )
        if self.tool_choice in ("required", "any") and not names:
            raise ConfigError(
                f"Output.tool_choice={self.tool_choice!r} needs tools: give at least one.", field="tool_choice"
            )
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
        tools, text = self.callable_tools, None if self.must_call else self.constraint
        if not tools and text is None:
            return None
        several, strict = self.parallel_tool_calls, self.strict
        if tools and text is None and not self.must_call:
            return free_text_or_calls(
                tools, answer_format, several=several, thought_is_open=thought_is_open, strict=strict
            )
        return calls_or_text(
            tools, text, answer_format, several=several, thought_is_open=thought_is_open, strict=strict
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts of the schemas that the grammar does not enforce, each with its place; none where it is strict."""
        if self.strict:
            return ()
        arguments = [
            f"{part} of the tool {tool.name!r}" for tool in self.callable_tools for part in tool.arguments.left_out
        ]
        text = self.constraint.left_out if self.constraint is not None and not self.must_call else ()
        return (*arguments, *text)

    def check_text(self, text: str) -> None:
        """Hold the text of an answer that is no call against what the grammar left out of the constraint.

        Raises:
            InvalidOutputError: it does not fit.
        """
        if self.strict or self.constraint is None or not self.constraint.left_out:
            return
        try:
            misfit = self.constraint.misfit(json.loads(text))
        except (ValueError, RecursionError) as error:
            misfit = f"it is no JSON that Python reads: {error}"
        if misfit is not None:
            raise InvalidOutputError(
                f"The answer does not fit its JSON schema, of which a grammar could not enforce all: {misfit}. Ask "
                f"again, perhaps with another seed, or say what you want in the prompt.",
                text=text,
            )

    def misfit_of_call(self, call: FunctionCall) -> str | None:
        """What of a call's arguments does not fit what the grammar left out of their schema; None where all does."""
        if self.strict:
            return None
        tool = next((tool for tool in self.callable_tools if tool.name == call["name"]), None)
        return None if tool is None else tool.arguments.misfit(call["arguments"])
