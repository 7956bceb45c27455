"""Runs a study: answers, then verdicts, each by Inspect with logs of their own, then the figures."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from inspect_ai import Task, eval_set
from inspect_ai.log import EvalLog
from pydantic import JsonValue

from sda_engine import EngineSettings, SteeringEngine
from sda_engine.alignment import AlignmentWarning
from sda_integrations.studies.analysis import compare, make_figures, measures_of, values_of
from sda_integrations.studies.examples import pick_examples
from sda_integrations.studies.planning import Plan, answering_tasks, judging_tasks, make_plan
from sda_integrations.studies.protocol import check_free, keep_protocol, make_protocol
from sda_integrations.studies.records import Answer, Verdict, read_answers, read_verdicts
from sda_integrations.studies.reliance import agreements, report_on
from sda_integrations.studies.results import Arm, Failure, Stage, StudyResults
from sda_integrations.studies.study import Study

_RETRIES = 2  # of a sample whose request failed
_TASKS_TOGETHER = 4  # runs at once, so that the last samples of one do not wait alone


def run_study(
    study: Study, out: Path, *, data: Path | None = None, resume: bool = False, display: str = "plain"
) -> StudyResults:
    """Run a study, or what is left of it, and tell what it found.

    Samples that were answered or judged stay so: what is kept in `out`/logs is not asked again. A sample that fails is
    tried again twice; then it is told as a failure, and tried again when the study is resumed.

    Args:
        study: which.
        out: the folder for logs and protocol; it is made where there is none.
        data: a folder with files of JSON lines; None: data sets come from the Hub.
        resume: go on with what lies in the folder.
        display: how Inspect shows progress, e.g. "rich", "plain" or "none".

    Raises:
        ConfigError: the study or its data are malformed, or the folder holds another study.
        ModelLoadError: the study's model cannot be loaded.
    """
    check_free(out, resume=resume)
    plan = make_plan(study, data)
    settings = EngineSettings(prefix_cache=not study.alone)
    engine = SteeringEngine.load(study.model, dtype=study.dtype, device=study.device, settings=settings)
    protocol = make_protocol(study, plan.sources, engine)
    keep_protocol(protocol, out, resume=resume)
    answers, failures = read_answers(_run(answering_tasks(plan), out / "logs" / "answers", study, display))
    verdicts, unjudged = read_verdicts(_run(judging_tasks(plan, answers), out / "logs" / "verdicts", study, display))
    return _results(plan, protocol, answers, verdicts, failures + unjudged)


def _run(tasks: Sequence[Task], folder: Path, study: Study, display: str) -> list[EvalLog]:
    """The logs of these tasks, those that are complete already included."""
    if not tasks:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)  # instructions of data sets are what they are
        _, logs = eval_set(
            list(tasks),
            log_dir=str(folder),
            log_dir_allow_dirty=True,
            log_buffer=1,  # every answer is on the disk as soon as it is there
            ctl_server=False,
            display=display,  # type: ignore[arg-type]
            fail_on_error=True,  # such a log counts as unfinished, so that what failed is tried again by a resumption
            continue_on_fail=True,
            retry_on_error=_RETRIES,
            retry_attempts=0,
            retry_immediate=False,
            max_samples=study.together,
            max_tasks=1 if study.alone else _TASKS_TOGETHER,
        )
    return logs


def _results(
    plan: Plan,
    protocol: dict[str, JsonValue],
    answers: Sequence[Answer],
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
) -> StudyResults:
    study, judges = plan.study, [judge.name for judge in plan.study.judges]
    values = values_of(answers, verdicts, judges, study.baseline)
    figures = make_figures(values, answers, study.baseline)
    return StudyResults(
        study=study.name,
        title=study.title,
        question=study.question,
        baseline=study.baseline,
        protocol={**protocol, "judges_served": _served(verdicts)},
        tasks={task.name: len(plan.samples[task.name]) for task in study.tasks},
        arms=tuple(
            Arm(
                name=arm.name,
                kind=arm.kind,
                settings=arm.model_dump(mode="json", exclude={"name", "kind", "sweep", "strength"}, exclude_unset=True),
                sweep=arm.sweep,
                strength=arm.strength,
            )
            for arm in study.arms
        ),
        measures=measures_of(values),
        figures=tuple(figures),
        comparisons=tuple(compare(values, study.baseline)),
        judges=tuple(report_on(judge, verdicts, answers, study.baseline) for judge in judges),
        agreements=tuple(agreements(judges, verdicts, study.baseline)),
        stages=tuple(_stages(answers) if study.alone else ()),
        examples=tuple(pick_examples(values, answers, study.baseline)),
        failures=tuple(failures),
        notes=tuple(plan.notes),
    )


def _served(verdicts: Sequence[Verdict]) -> dict[str, JsonValue]:
    """Judge -> the exact names under which it answered."""
    names = {(one.judge, one.served) for one in verdicts if one.served is not None}
    return {judge: [served for other, served in sorted(names) if other == judge] for judge, _ in sorted(names)}


def _stages(answers: Sequence[Answer]) -> list[Stage]:
    """Where the seconds of each arm go, per answer."""
    stages = []
    for arm in dict.fromkeys(answer.arm for answer in answers):
        told = [_seconds(answer) for answer in answers if answer.arm == arm and "seconds" in answer.noted]
        whole = sum(sum(one.values()) for one in told)
        for stage in dict.fromkeys(stage for one in told for stage in one):
            seconds = sum(one.get(stage, 0.0) for one in told)
            stages.append(Stage(arm=arm, stage=stage, seconds=seconds / len(told), share=seconds / whole))
    return stages


def _seconds(answer: Answer) -> dict[str, float]:
    """Stage -> seconds of one answer."""
    whole = float(answer.noted["seconds"])
    if "plain_seconds" in answer.noted:
        plain = float(answer.noted["plain_seconds"])
        return {"base response": plain, "correction": whole - plain}
    told = {stage.replace("_", " "): seconds for stage, seconds in answer.stages.items()}
    told["answer"] = max(0.0, whole - sum(seconds for stage, seconds in told.items() if stage != "answer"))
    return told
