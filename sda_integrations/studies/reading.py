"""Studies from TOML: those that come with the package, and files of a user's own."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sda_engine.errors import ConfigError
from sda_integrations.studies.study import ArmSpec, JudgeSpec, Study, TaskSpec

SHIPPED = ("paper", "adherence", "rag", "domains", "overhead")
"""The studies that come with the package."""


@dataclass(frozen=True)
class Changes:
    """What a command changes of a study; None for nothing.

    Attributes:
        model: what answers.
        limit: samples of each task at most, whatever the study says.
        max_tokens: new tokens of an answer at most, likewise.
        judge: a model in Inspect that judges, in place of the study's judges.
        evaluator: who rates the base response in the arms that have one rate it.
    """

    model: str | None = None
    limit: int | None = None
    max_tokens: int | None = None
    judge: str | None = None
    evaluator: str | None = None


def read_study(name: str, changes: Changes = Changes()) -> Study:
    """The study that a shipped name or the path of a TOML file means, with some of it changed.

    Raises:
        ConfigError: there is none, or the file is malformed.
    """
    source = files(__package__) / "shipped" / f"{name}.toml" if name in SHIPPED else Path(name)
    try:
        values = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"There is no study {name!r}: it must be one of {', '.join(SHIPPED)}, or the path of a TOML file."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is no TOML file in UTF-8: {error}.") from error
    return make_study(values, changes)


def make_study(values: Mapping[str, object], changes: Changes = Changes()) -> Study:
    """The study that the tables of a TOML file mean.

    Raises:
        ConfigError: a table or a field is unknown, of the wrong type or out of range.
    """
    arms = values.get("arms", {})
    if not isinstance(arms, Mapping):
        raise ConfigError("'arms' must be tables by name: [arms.plain], [arms.steered] and so on.")
    judges = [_table("judges", one) for one in _list("judges", values)]
    own = {"model": f"sda/{changes.model or values.get('model', Study.model_fields['model'].default)}"}
    judges = [one if "model" in one or "evaluator" in one else {**one, **own} for one in judges]
    if changes.judge is not None:
        judges = [{"model": changes.judge}]
    study = Study.of_values(
        {
            **values,
            "tasks": tuple(TaskSpec.of_values(_table("tasks", one)) for one in _list("tasks", values)),
            "judges": tuple(map(JudgeSpec.of_values, judges)),
            "arms": tuple(arm for name, one in arms.items() for arm in _arms(str(name), _table("arms", one))),
        }
    )
    return _changed(study, changes)


def _changed(study: Study, changes: Changes) -> Study:
    """A study with the changes that are not made yet."""
    tasks = study.tasks
    for field in ("limit", "max_tokens"):
        if (most := getattr(changes, field)) is not None:
            tasks = tuple(task.replace(**{field: min(most, getattr(task, field) or most)}) for task in tasks)
    arms = study.arms
    if changes.evaluator is not None:
        arms = tuple(
            arm.replace(steering={**arm.steering, "evaluator": changes.evaluator}) if _has_judge(arm) else arm
            for arm in arms
        )
    return study.replace_given(
        model=changes.model, limit=changes.limit, max_tokens=changes.max_tokens, tasks=tasks, arms=arms
    )


def _has_judge(arm: ArmSpec) -> bool:
    """Whether an evaluator rates base responses, and none that only passes the time."""
    return not str(arm.steering.get("evaluator", "simulated")).startswith("simulated")


def _arms(name: str, table: Mapping[str, object]) -> list[ArmSpec]:
    """The arm of a table, or one for each of its `strengths`."""
    strengths = table.get("strengths")
    if strengths is None:
        return [ArmSpec.of_values({"name": name, **table})]
    if not isinstance(strengths, list) or not all(isinstance(one, (int, float)) and one >= 0 for one in strengths):
        raise ConfigError(f"arms.{name}.strengths cannot be {strengths!r}: it must be a list of numbers of at least 0.")
    rest = {field: value for field, value in table.items() if field != "strengths"}
    steering = _table("arms.steering", rest.get("steering", {}))
    return [
        ArmSpec.of_values(
            {
                **rest,
                "name": f"{name} {strength:g}",
                "sweep": name,
                "strength": float(strength),
                "steering": {**steering, "gain": float(strength), "amplification": 1.0},
            }
        )
        for strength in strengths
    ]


def _list(name: str, values: Mapping[str, object]) -> Sequence[object]:
    given = values.get(name, [])
    if not isinstance(given, list):
        raise ConfigError(f"{name!r} must be a list of tables: [[{name}]].")
    return given


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name!r} holds {value!r}: it must hold tables.")
    return value
