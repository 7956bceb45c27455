"""What a request gives back: completions, pieces of a stream, and the trace of what steering did at each token."""

from sda_engine.results.completion import (
    Completion,
    Delta,
    FinishReason,
    GeneratedTokenLogprobs,
    Piece,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    whole_piece,
)
from sda_engine.results.trace import Candidate, Trace, TraceMeans, TraceToken, TraceWarning, WarningKind

__all__ = [
    "Candidate",
    "Completion",
    "Delta",
    "FinishReason",
    "GeneratedTokenLogprobs",
    "Piece",
    "TokenLogprob",
    "ToolCallDelta",
    "Trace",
    "TraceMeans",
    "TraceToken",
    "TraceWarning",
    "Usage",
    "WarningKind",
    "whole_piece",
]
