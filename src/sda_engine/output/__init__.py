"""The form of an answer: tools, schemas and grammars, and the gate and the compiler that make them safe to enforce."""

from sda_engine.output.constraints import (
    Constraint,
    ConstraintCompiler,
    LoosenedSchemaWarning,
    LooseningNotes,
    join_grammars,
)
from sda_engine.output.form import TOOL_CHOICES, Output
from sda_engine.output.past_calls import jsonable_calls
from sda_engine.output.token_constraint import TokenConstraint
from sda_engine.output.tools import (
    FunctionCall,
    InvalidToolCall,
    Tool,
    ToolCall,
    new_call_id,
    resolve_tool,
    tool_prompt,
)

__all__ = [
    "TOOL_CHOICES",
    "Constraint",
    "ConstraintCompiler",
    "FunctionCall",
    "InvalidToolCall",
    "LoosenedSchemaWarning",
    "LooseningNotes",
    "Output",
    "TokenConstraint",
    "Tool",
    "ToolCall",
    "join_grammars",
    "jsonable_calls",
    "new_call_id",
    "resolve_tool",
    "tool_prompt",
]
