"""Files of JSON lines whose every line is checked, with the number of the line in what is said of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from sda_engine.errors import ConfigError, SDAError
from sda_engine.settings import shown

T = TypeVar("T")


def read_json_lines(
    path: Path, parse: Callable[[Mapping[str, object]], T], *, what: str, example: str, limit: int | None = None
) -> list[T]:
    """The records of a file, one JSON object a line; blank lines are skipped.

    Args:
        path: the file, in UTF-8.
        parse: makes a record of an object, or raises SDAError.
        what: what a record is called.
        example: a line of such a file, for errors.
        limit: only the first so many records; None for all.

    Raises:
        ConfigError: the file cannot be read or holds no record, or a line is malformed: its number is told.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The {what}s cannot be read from {path}: {error}. Give a file of JSON lines in UTF-8."
        ) from error
    records: list[T] = []
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(records) == limit:
            break
        if line.strip():
            try:
                records.append(parse(_object(line, example)))
            except SDAError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from error
    if not records:
        raise ConfigError(f"{path} holds no {what}: give a line such as {example}.")
    return records


def _object(line: str, example: str) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"This is no JSON ({error}): give one JSON object a line.") from error
    if not isinstance(record, dict):
        raise ConfigError(f"This cannot be {shown(record)}: it must be an object such as {example}.")
    return record
