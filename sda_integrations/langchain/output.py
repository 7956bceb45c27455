"""LangChain's call keywords for tools and structured output -> the engine's Output."""

from collections.abc import Mapping
from typing import Any

from sda_engine import Output
from sda_engine.adapting import read_output
from sda_engine.output import resolve_tool
from sda_integrations.langchain.schemas import to_json_schema, to_tool


def make_output(call: Mapping[str, Any]) -> Output:
    """The form of the answer that a call asks for; free text where it says nothing of it.

    Args:
        call: keywords of the call; only OUTPUT_KEYWORDS are looked at.

    Raises:
        ConfigError: a tool, a choice or a format cannot be read.
        ConstraintError: a schema is too large.
    """
    return read_output(call, to_tool=lambda tool: resolve_tool(to_tool(tool)), to_json_schema=to_json_schema)
