"""What every adapter shares: the flat settings of a request, and the keywords that ask for the form of an answer."""

from sda_engine.adapting.output import OUTPUT_KEYWORDS, read_output
from sda_engine.adapting.recursion import at_its_root, is_recursive
from sda_engine.adapting.settings import REQUEST_KEYWORDS, describe_settings, override_settings

__all__ = [
    "OUTPUT_KEYWORDS",
    "REQUEST_KEYWORDS",
    "at_its_root",
    "describe_settings",
    "is_recursive",
    "override_settings",
    "read_output",
]
