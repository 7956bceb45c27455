"""StudyResults: what a study found, as one object that is written to results.json and drawn by `report`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Better = Literal["higher", "lower", "neither"]
Kind = Literal["effect", "side effect", "cost"]
Unit = Literal["share", "points", "number", "tokens", "words", "seconds", "nats"]


class Record(BaseModel):
    """Frozen plain data."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measure(Record):
    """Something that is measured of answers.

    Attributes:
        name: its key, e.g. "fact_kept".
        title: how tables call it.
        about: one sentence: how it is told.
        unit: "share" is 0..1 and shown in percent; "points" are 1..100 of a judge.
        better: which way is better.
        kind: whether arms are there to move it (effect), it moves beside (side effect), or it is what they use (cost).
    """

    name: str
    title: str
    about: str
    unit: Unit
    better: Better
    kind: Kind


class Arm(Record):
    """A way of answering that is compared.

    Attributes:
        name: its name in the study.
        kind: "plain", "prompt", "steered", "corrector" or "model".
        settings: what the study says of it.
        sweep: arms of one sweep share this name and are drawn as one curve; None for all others.
        strength: where on that curve it stands.
    """

    name: str
    kind: str
    settings: dict[str, JsonValue]
    sweep: str | None = None
    strength: float | None = None


class Figure(Record):
    """One measure of one arm in one task, or in one category of its samples.

    Attributes:
        arm, task, measure: names.
        category: None for all samples of the task.
        value: the mean over samples.
        low, high: ends of the 95% interval; None where there is one sample only.
        count: samples.
    """

    arm: str
    task: str
    measure: str
    value: float
    low: float | None
    high: float | None
    count: int
    category: str | None = None


class Comparison(Record):
    """An arm beside another one on the same samples.

    Attributes:
        arm, baseline, task, measure: names.
        value: what the arm has more than the baseline, in the measure's unit; of a measure "win_rate" the paper's rate
            (wins - losses) / all.
        low, high: ends of the 95% interval.
        count: samples that both have.
        wins, losses, ties: samples where the arm is above, below, or neither.
        p: of the paired test; None where nothing differs or there is one sample only.
        adjusted_p: the same after Holm's correction over all comparisons of the same measure.
    """

    arm: str
    baseline: str
    task: str
    measure: str
    value: float
    low: float | None
    high: float | None
    count: int
    wins: int
    losses: int
    ties: int
    p: float | None = None
    adjusted_p: float | None = None


class JudgeReport(Record):
    """How far a judge's verdicts can be relied on.

    Attributes:
        name: the judge, by its exact name.
        verdicts: how many it gave; `unreadable` were asked for and did not come.
        order_bias: share of pairs whose verdict turned with their order; None where nothing was judged in pairs.
        first_share: share of verdicts on pairs for the answer that stood first, ties left out; 0.5 is no preference.
        length_effect: by how much the log-odds of winning grow from an answer as long as the other one to one that is
            longer by a standard deviation of the differences or more; None where it was not estimated.
    """

    name: str
    verdicts: int
    unreadable: int
    order_bias: float | None = None
    first_share: float | None = None
    length_effect: float | None = None


class Agreement(Record):
    """Two judges on the same answers.

    Attributes:
        judges: their names.
        kappa: Cohen's kappa of verdicts on the same pairs.
        rank_correlation: Spearman's rank correlation of the arms as the two rank them.
        count: pairs that both have judged.
    """

    judges: tuple[str, str]
    kappa: float | None
    rank_correlation: float | None
    count: int


class ShownToken(Record):
    """A token of an example.

    Attributes:
        text: its text.
        divergence: of the contexts, nats, 0..ln 2; None where nothing was steered.
        changed: whether the base context would have chosen another one.
    """

    text: str
    divergence: float | None
    changed: bool


class Example(Record):
    """A sample where an arm wins or loses against the baseline.

    Attributes:
        task, sample, arm, baseline: names.
        measure: by which the outcome is told.
        outcome: of the arm.
        question: what was asked.
        baseline_answer, answer: what the two said.
        tokens: those of `answer`; empty where its model does not tell them.
    """

    task: str
    sample: str
    arm: str
    baseline: str
    measure: str
    outcome: Literal["win", "loss"]
    question: str
    baseline_answer: str
    answer: str
    tokens: tuple[ShownToken, ...] = ()


class Stage(Record):
    """A stage of a request, of one arm.

    Attributes:
        arm: the arm.
        stage: "base response", "judge", "answer" or "correction".
        seconds: mean per answer.
        share: of the arm's seconds, 0..1.
    """

    arm: str
    stage: str
    seconds: float
    share: float


class Failure(Record):
    """A sample without an answer or a verdict, and why."""

    task: str
    arm: str
    sample: str
    error: str


class StudyResults(Record):
    """What a study found.

    Attributes:
        study, title, question: the study's name, its title, and what it asks.
        baseline: the arm that the others are held against.
        protocol: everything that figures depend on, as plain JSON: versions, the model and its digest, data and their
            digests, seeds, sampling, judges, machine; runs whose `digest`s differ are not comparable.
        tasks: task -> samples asked.
        arms, measures, figures, comparisons, judges, agreements, stages, examples, failures: see their classes.
        notes: what a reader must know: arms that a task could not run, kinds left out.
    """

    study: str
    title: str
    question: str
    baseline: str
    protocol: dict[str, JsonValue]
    tasks: dict[str, int]
    arms: tuple[Arm, ...]
    measures: tuple[Measure, ...]
    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...] = ()
    judges: tuple[JudgeReport, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    stages: tuple[Stage, ...] = ()
    examples: tuple[Example, ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
