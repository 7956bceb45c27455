"""What Inspect's logs hold of a study, read back: answers with their measures, and verdicts on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from inspect_ai.log import EvalLog, EvalSample, read_eval_log

from sda_engine.evaluation.checking import word_count
from sda_engine.evaluators.preference import Preference
from sda_integrations.studies.answering import NOTED
from sda_integrations.studies.results import Failure


@dataclass(frozen=True)
class Answer:
    """An answer of one arm to one sample.

    Attributes:
        task, arm, sample: names.
        category: of the sample; None where the task has none.
        question, text: what was asked and answered.
        measures: measure -> value.
        tokens: of the answer, as the provider tells them: text, divergence, changed.
        noted: what the solver noted: seconds, and costs where requests ran one at a time.
        stages: stage -> seconds, of those that the provider can tell and that took any.
    """

    task: str
    arm: str
    sample: str
    category: str | None
    question: str
    text: str
    measures: dict[str, float]
    tokens: list[dict[str, Any]] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What one judge said of one answer.

    Attributes:
        task, arm, sample, judge: names.
        other: the arm that a pair's other answer is of; None for points.
        points: 1 to 100; None where it was not asked for or could not be read.
        pair: of both orders, the arm's answer first and then second; None where it was not asked for.
        asked: whether it was: answers that are the same are a tie without.
        unreadable: how many verdicts were asked for and could not be read.
        count: how many were asked for.
        served: the judge's name as its server, or the evaluator itself, tells it; None where it was not asked.
    """

    task: str
    arm: str
    sample: str
    judge: str
    other: str | None = None
    points: float | None = None
    pair: tuple[Preference, Preference] | None = None
    asked: bool = True
    unreadable: int = 0
    count: int = 0
    served: str | None = None


Place = tuple[str, str, str]
"""Task, arm and sample of an answer."""


def words_of(answers: Iterable[Answer]) -> dict[Place, float]:
    """The length of each answer, in words."""
    return {(one.task, one.arm, one.sample): float(word_count(one.text)) for one in answers}


def read_answers(logs: Iterable[EvalLog]) -> tuple[list[Answer], list[Failure]]:
    """The answers that logs hold, always in the same order, and the samples without one."""
    answers, failures = [], []
    for log, sample in _samples(logs):
        about = log.eval.metadata or {}
        task, arm, name = str(about["task"]), str(about["arm"]), str(sample.id)
        if (error := _error_of(sample)) is not None:
            failures.append(Failure(task=task, arm=arm, sample=name, error=error))
            continue
        told = sample.output.metadata or {}
        sda = told.get("sda") or {}
        (score,) = (sample.scores or {}).values()
        answers.append(
            Answer(
                task=task,
                arm=arm,
                sample=name,
                category=sample.metadata.get("category"),
                question=str(sample.input),
                text=sample.output.completion,
                measures={key: float(value) for key, value in (score.metadata or {})["measures"].items()},
                tokens=sda.get("tokens") or [],
                noted=told.get(NOTED) or {},
                stages={key: seconds for key, seconds in (sda.get("seconds") or {}).items() if seconds},
            )
        )
    return sorted(answers, key=lambda one: (one.task, one.arm, one.sample)), failures


def read_verdicts(logs: Iterable[EvalLog]) -> tuple[list[Verdict], list[Failure]]:
    """The verdicts that logs hold, always in the same order, and the samples without one."""
    verdicts, failures = [], []
    for log, sample in _samples(logs):
        about = log.eval.metadata or {}
        task, arm, judge, name = (*(str(about[key]) for key in ("task", "arm", "judge")), str(sample.id))
        if (error := _error_of(sample)) is not None:
            failures.append(Failure(task=task, arm=arm, sample=name, error=f"{judge}: {error}"))
            continue
        noted = (sample.output.metadata or {})[NOTED]
        if "points" in noted:
            verdicts.append(
                Verdict(
                    task,
                    arm,
                    name,
                    judge,
                    points=noted["points"],
                    unreadable=int(noted["points"] is None),
                    count=1,
                    served=noted["served"],
                )
            )
        else:
            first, second = noted["verdicts"]
            readable = None not in (first, second)
            verdicts.append(
                Verdict(
                    task,
                    arm,
                    name,
                    judge,
                    about["other"],
                    pair=(first, second) if readable else None,
                    asked=noted["asked"],
                    unreadable=(first, second).count(None),
                    count=2 if noted["asked"] else 0,
                    served=noted.get("served"),
                )
            )
    return sorted(verdicts, key=lambda one: (one.task, one.arm, one.judge, one.other or "", one.sample)), failures


def _samples(logs: Iterable[EvalLog]) -> Iterator[tuple[EvalLog, EvalSample]]:
    for header in logs:
        log = read_eval_log(header.location)
        for sample in log.samples or ():
            yield log, sample


def _error_of(sample: EvalSample) -> str | None:
    """Why a sample has no score; None where it has one."""
    if sample.error is not None:
        return sample.error.message
    return None if sample.scores else "It was not scored."
