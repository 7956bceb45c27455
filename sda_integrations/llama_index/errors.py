"""Wrong constructor fields and call keywords, told as a ConfigError that names the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from sda_engine.errors import ConfigError


def unknown_name(name: str, known: Iterable[str], kind: str) -> ConfigError:
    """The error for a name that SDALLM does not know.

    Args:
        name: what was given.
        known: the legal names.
        kind: what the name stands for: "field" or "call keyword".
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Remove it."
    return ConfigError(f"SDALLM has no {kind} {name!r}. {hint} Its {kind}s are: {', '.join(names)}.")


def wrong_field(error: ValidationError, known: Iterable[str]) -> ConfigError:
    """The ConfigError that a failed construction's ValidationError means."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return unknown_name(name, known, "field")
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # it explains itself
        return cause
    return ConfigError(f"SDALLM.{name} cannot be {problem['input']!r}: {problem['msg']}.")
