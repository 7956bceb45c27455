"""Warnings that point at the line of the user's own that asked for what they warn of."""

import sys
import warnings
from types import FrameType

# By top-level module: ours, the frameworks that call us, and what calls for them
_BETWEEN = frozenset(
    {
        *("sda_engine", "sda_integrations", "pydantic", "wrapt"),
        *("langchain", "langchain_classic", "langchain_core", "langgraph", "langsmith"),
        *("llama_index", "llama_index_instrumentation", "workflows"),
        *("asyncio", "concurrent", "contextlib", "contextvars", "functools", "threading"),
    }
)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line that is neither ours nor a framework's; in a pool's thread, at the outermost there is.

    Python then shows the warning once for that line, and filters by module know it as the user's.
    """
    frame = _outside(sys._getframe(1))
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=names.get("__name__", "<unknown>"),
        registry=names.setdefault("__warningregistry__", {}),
    )


def _outside(frame: FrameType) -> FrameType:
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    return frame
