"""Wrong constructor fields and call keywords, said in a ConfigError that names the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from sda_engine.errors import ConfigError


def unknown_name(name: str, known: Iterable[str], kind: str) -> ConfigError:
    """The error for a name that ChatSDA does not know.

    Args:
        name: what was given.
        known: the legal names.
        kind: what the name stands for: "field" or "call keyword".
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Remove it."
    return ConfigError(f"ChatSDA has no {kind} {name!r}. {hint} Its {kind}s are: {', '.join(names)}.")


def wrong_fields(error: ValidationError, known: Iterable[str]) -> ConfigError:
    """The ConfigError that says what a failed construction's ValidationError means."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    if not name:  # a ConfigError of our own or of the engine's settings, which explains itself
        return ConfigError(str(first["ctx"]["error"]))
    if first["type"] == "extra_forbidden":
        return unknown_name(name, known, "field")
    return ConfigError(f"ChatSDA.{name} cannot be {first['input']!r}: {first['msg']}.")
