"""What every adapter shares: the flat settings of a request, and the keywords that ask for the form of an answer."""

from sda_engine.adapting.output import OUTPUT_KEYWORDS, read_output
from sda_engine.adapting.settings import (
    REQUEST_KEYWORDS,
    STEERING_KEYWORDS,
    combine_settings,
    describe_settings,
    override_settings,
)

__all__ = [
    "OUTPUT_KEYWORDS",
    "REQUEST_KEYWORDS",
    "STEERING_KEYWORDS",
    "combine_settings",
    "describe_settings",
    "override_settings",
    "read_output",
]
