"""What every adapter shares: the flat settings of a request, and the keywords that ask for the form of an answer."""

from sda_engine.adapting.copies import describe_for_copy, lacks_engine, restore_evaluator, restore_steering
from sda_engine.adapting.engine_protocol import Engine, is_engine
from sda_engine.adapting.output import OUTPUT_KEYWORDS, read_output
from sda_engine.adapting.python_types import is_pydantic_model, is_python_type, type_name, type_reader, type_schema
from sda_engine.adapting.reasoning import reasoning_variables
from sda_engine.adapting.recursion import at_its_root, is_recursive
from sda_engine.adapting.serving import make_remote_engine, other_model, refuse_loading, server_of
from sda_engine.adapting.settings import (
    REQUEST_KEYWORDS,
    STEERING_KEYWORDS,
    alignment_of_field,
    combine_settings,
    describe_settings,
    override_settings,
    resolve_once,
)
from sda_engine.adapting.several import all_or_first_failure, settings_of_each

__all__ = [
    "OUTPUT_KEYWORDS",
    "REQUEST_KEYWORDS",
    "STEERING_KEYWORDS",
    "Engine",
    "alignment_of_field",
    "all_or_first_failure",
    "at_its_root",
    "combine_settings",
    "describe_for_copy",
    "describe_settings",
    "is_engine",
    "is_pydantic_model",
    "is_python_type",
    "is_recursive",
    "lacks_engine",
    "make_remote_engine",
    "other_model",
    "override_settings",
    "read_output",
    "reasoning_variables",
    "refuse_loading",
    "resolve_once",
    "restore_evaluator",
    "restore_steering",
    "server_of",
    "settings_of_each",
    "type_name",
    "type_reader",
    "type_schema",
]
