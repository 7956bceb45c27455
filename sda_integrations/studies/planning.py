"""From a study to Inspect's tasks: one for each arm and task, on the same samples, and those that have them judged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import Model, get_model
from inspect_ai.solver import Solver

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import LEFT_OUT
from sda_engine.settings import unknown_name
from sda_integrations.studies.answering import Asked, alignment_of, answer
from sda_integrations.studies.data import Source, digest_of, read_rows
from sda_integrations.studies.judging import compare, rate_points, verdict
from sda_integrations.studies.records import Answer
from sda_integrations.studies.scoring import STUDIED, measured
from sda_integrations.studies.study import ArmSpec, JudgeSpec, Study, TaskSpec
from sda_integrations.studies.tasks import TASKS, TaskKind


@dataclass(frozen=True)
class Plan:
    """What a study asks.

    Attributes:
        study: which.
        samples: task -> its samples, which all arms share.
        sources: task -> where they come from.
        runs: the pairs of task and arm that are run.
        notes: which are not, and why.
    """

    study: Study
    samples: Mapping[str, Sequence[Sample]]
    sources: Mapping[str, Source]
    runs: Sequence[tuple[TaskSpec, ArmSpec]]
    notes: Sequence[str]


def make_plan(study: Study, folder: Path | None) -> Plan:
    """Read or make all samples, and find out which arms can run which tasks.

    Args:
        study: which.
        folder: where files of JSON lines lie; None for the Hub.

    Raises:
        ConfigError: a task is unknown, or its data cannot be had.
    """
    samples: dict[str, list[Sample]] = {}
    sources: dict[str, Source] = {}
    runs: list[tuple[TaskSpec, ArmSpec]] = []
    notes: list[str] = []
    for task in study.tasks:
        if task.name not in TASKS:
            raise unknown_name("A study", task.name, TASKS, "task")
        samples[task.name], sources[task.name] = _samples(task, study, folder)
        for arm in study.arms:
            if not arm.runs(task.name):
                continue
            if (reason := _cannot(arm, TASKS[task.name])) is not None:
                notes.append(f"The arm {arm.name!r} does not run {task.name!r}: {reason}.")
            else:
                runs.append((task, arm))
    if "ifeval" in samples and LEFT_OUT:
        notes.append(f"IFEval's kinds {', '.join(LEFT_OUT)} are left out: {'; '.join(sorted(set(LEFT_OUT.values())))}.")
    return Plan(study, samples, sources, runs, notes)


def answering_tasks(plan: Plan) -> list[Task]:
    """The tasks of Inspect that have all samples answered and measured."""
    return [
        Task(
            name=f"{task.name} {arm.name}",
            dataset=MemoryDataset([sample.model_copy(deep=True) for sample in answerable]),
            solver=answer(arm.model_dump(mode="json"), asdict(_asked(plan.study, task))),
            scorer=measured(task.name, alone=plan.study.alone),
            model=_model_of(plan.study, arm),
            model_roles={STUDIED: own_model(plan.study)},
            metadata={"task": task.name, "arm": arm.name},
        )
        for task, arm in plan.runs
        if (answerable := _answerable(plan, task, arm))
    ]


def judging_tasks(plan: Plan, answers: Sequence[Answer]) -> list[Task]:
    """The tasks of Inspect that have answers judged: for each judge and run, points and pairs."""
    by_run: dict[tuple[str, str], list[Answer]] = {}
    for one in answers:
        by_run.setdefault((one.task, one.arm), []).append(one)
    tasks = []
    for judge in plan.study.judges:
        for (task, arm), own in by_run.items():
            if (rubric := TASKS[task].judged) is None:
                continue
            if judge.points:
                solving = rate_points(rubric, judge.evaluator, judge.evaluator_url)
                tasks.append(_judging(judge, plan.study, own, None, solving))
            for other in _rivals(plan.study, arm) if judge.pairs and judge.evaluator is None else ():
                tasks.append(_judging(judge, plan.study, own, by_run.get((task, other), ()), compare(rubric)))
    return [task for task in tasks if len(task.dataset) > 0]


def own_model(study: Study) -> Model:
    """The study's model in Inspect."""
    settings = {"prefix_cache": not study.alone}
    return get_model(f"sda/{study.model}", dtype=study.dtype, device=study.device, engine_settings=settings)


def _rivals(study: Study, arm: str) -> list[str]:
    """The arms whose answers one's are compared with."""
    if arm == study.baseline:
        return []
    (spec,) = (one for one in study.arms if one.name == arm)
    return [study.baseline, *spec.against]


def _judging(
    judge: JudgeSpec, study: Study, answers: Sequence[Answer], others: Sequence[Answer] | None, solving: Solver
) -> Task:
    """The task that has a judge rate answers or, where there are others, say which is the better one."""
    task, arm = answers[0].task, answers[0].arm
    texts = {one.sample: one.text for one in others or ()}
    samples = [
        Sample(id=one.sample, input=one.question, metadata={"answer": one.text, "other": texts.get(one.sample)})
        for one in answers
        if others is None or one.sample in texts
    ]
    other = others[0].arm if others else None
    return Task(
        name=f"{task} {arm} {'points' if other is None else f'over {other}'} by {judge.name}",
        dataset=MemoryDataset(samples),
        solver=solving,
        scorer=verdict(),
        model=own_model(study) if judge.model is None else _named(study, judge.model, judge.base_url),
        metadata={"task": task, "arm": arm, "judge": judge.name, "other": other},
        # Answers that came late are others: they are judged anew, under a log of their own
        version=digest_of([[sample.id, sample.metadata] for sample in samples])[:16],
    )


def _samples(task: TaskSpec, study: Study, folder: Path | None) -> tuple[list[Sample], Source]:
    kind = TASKS[task.name]
    if kind.data is None:
        if task.data or task.revision:
            raise ConfigError(f"The task {task.name!r} makes its samples up: it takes no 'data' and no 'revision'.")
        count = min(task.limit or study.limit or kind.count, kind.count)
        samples = kind.make([], count, study.seed)
        return samples, Source("made up", len(samples), digest_of([one.model_dump(mode="json") for one in samples]))
    rows, source = read_rows(kind.data, folder=folder, file=task.data, revision=task.revision)
    samples = kind.make(rows, task.limit or study.limit or len(rows), study.seed)
    if not samples:
        raise ConfigError(f"{source.name} holds no sample that the task {task.name!r} can use: give another file.")
    return samples, source


def _answerable(plan: Plan, task: TaskSpec, arm: ArmSpec) -> list[Sample]:
    """The samples that an arm can answer: one that only steers away needs something to avoid."""
    alignment = _alignment(task)
    return [
        sample
        for sample in plan.samples[task.name]
        if not arm.avoid_only or alignment_of(arm, alignment, sample.metadata or {}) is not None
    ]


def _asked(study: Study, task: TaskSpec) -> Asked:
    return Asked(
        form=TASKS[task.name].form,
        alignment=_alignment(task),
        temperature=study.temperature,
        max_tokens=max(TASKS[task.name].least_tokens, task.max_tokens or study.max_tokens),
        seed=study.seed,
        alone=study.alone,
    )


def _alignment(task: TaskSpec) -> str | None:
    return task.alignment or TASKS[task.name].alignment


def _model_of(study: Study, arm: ArmSpec) -> Model:
    return _named(study, arm.model, arm.base_url) if arm.kind == "model" and arm.model else own_model(study)


def _named(study: Study, model: str, base_url: str | None) -> Model:
    """A model by name: the study's own in its dtype and on its device, whoever asks it."""
    return own_model(study) if model == f"sda/{study.model}" else get_model(model, base_url=base_url)


def _cannot(arm: ArmSpec, kind: TaskKind) -> str | None:
    """Why an arm cannot run a task; None where it can."""
    if kind.form == "choice" and arm.kind in ("corrector", "model"):
        return "nothing is written there that it could change"
    if kind.form == "choice" and arm.steering.get("policy") == "revise":
        return "a revision has no distribution of given answers"
    if kind.form == "choice" and "evaluator" in arm.steering:
        return "there is no base response that its evaluator could rate"
    if kind.form in ("call", "json") and arm.kind == "corrector":
        return "a correction is a text"
    return None
