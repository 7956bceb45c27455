"""What `sda serve` is given: options, over a TOML file whose tables and keys have the same names."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sda_engine.choosing import Revision
from sda_engine.cli.evaluator_specs import check_url
from sda_engine.config import Sampling, Steering
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.models import ModelSettings
from sda_engine.settings import Settings, SettingsKind, unknown_name
from sda_integrations.server.settings import EvaluatorSettings, ServerLimits, ServerSettings

MAX_REQUESTS = 256
"""Requests that the engine takes on at a time where nobody says: those of a server come from many, and without end."""

_ENGINE = "engine"
_TABLES: Mapping[str, type[Settings]] = {"limits": ServerLimits, "sampling": Sampling, "steering": Steering}


@dataclass(frozen=True)
class ServeSettings:
    """Everything that a server is made from.

    Attributes:
        model: which model to load, and how.
        engine: how its engine shares the machine.
        server: who may ask, and by what it answers where a request does not say.
    """

    model: ModelSettings
    engine: EngineSettings
    server: ServerSettings


def read_settings(file: Path | None, options: Mapping[str, object], evaluator_url: str | None = None) -> ServeSettings:
    """What options mean, laid over a file.

    Args:
        file: in TOML; None for none.
        options: by the names of the settings; they come before the file.
        evaluator_url: address of the server of the evaluator among the options.

    Raises:
        ConfigError: the file cannot be read, or a value is unknown or out of range.
    """
    values = {} if file is None else _read_file(file)
    values |= options
    if evaluator_url is not None:
        spec = str(options.get("evaluator", ""))
        check_url(evaluator_url, [spec])
        judge = EvaluatorSettings(spec=spec, url=evaluator_url)
        values["evaluators"] = {**_table(values, "evaluators"), spec: judge}
    model = {name: values.pop(name) for name in ModelSettings.model_fields if name in values}
    engine = {"max_requests": MAX_REQUESTS, **_table(values, _ENGINE)}
    values.pop(_ENGINE, None)
    return ServeSettings(
        ModelSettings.of_values(model), _settings(_ENGINE, EngineSettings, engine), ServerSettings.of_values(values)
    )


def _read_file(file: Path) -> dict[str, object]:
    """The values of a file, its tables of settings made into these."""
    try:
        values: dict[str, object] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file} cannot be read: {error.strerror}. Give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file} is no TOML file in UTF-8: {error}.") from error
    known = [*ModelSettings.model_fields, *ServerSettings.model_fields, _ENGINE]
    for name in values:
        if name not in known:
            raise unknown_name(str(file), name, known, "key")
    for name, kind in _TABLES.items():
        if name in values:
            values[name] = _settings(name, kind, _table(values, name))
    if "evaluators" in values:
        given = _table(values, "evaluators")
        values["evaluators"] = {name: _evaluator(name, one) for name, one in given.items()}
    return values


def _settings(name: str, kind: type[SettingsKind], table: Mapping[str, object]) -> SettingsKind:
    """The settings of a table.

    Raises:
        ConfigError: a key is unknown or a value out of range; it names the table.
    """
    if kind is Steering:
        table = _plain_steering(table)
    try:
        return kind.of_values(table)
    except ConfigError as error:
        raise ConfigError(f"[{name}]: {error}") from error


def _plain_steering(table: Mapping[str, object]) -> Mapping[str, object]:
    """What a table says of steering, its revisions made into these.

    Raises:
        ConfigError: it names an evaluator, which does not stand there.
    """
    for name in ("evaluator", "chooser"):
        if name in table:
            raise ConfigError(f"[steering] has {name!r}, which stands above all tables: {name} = '...'.")
    revisions = table.get("revisions")
    if not isinstance(revisions, list):
        return table
    made = [_settings("steering.revisions", Revision, one) if isinstance(one, dict) else one for one in revisions]
    return {**table, "revisions": made}


def _evaluator(name: str, given: object) -> object:
    return _settings(f"evaluators.{name}", EvaluatorSettings, given) if isinstance(given, dict) else given


def _table(values: Mapping[str, object], name: str) -> Mapping[str, object]:
    """A table of a file; empty where there is none.

    Raises:
        ConfigError: what has that name is no table.
    """
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        kind = "a list" if isinstance(table, list) else "a single value"
        raise ConfigError(f"{name!r} is {kind} (not shown here): it must be a table, [{name}].")
    return table
