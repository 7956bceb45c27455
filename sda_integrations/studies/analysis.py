"""From answers and verdicts to figures: means and differences with intervals, by arm, task, measure and category."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sda_engine.evaluation.length_control import length_controlled_rate
from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluation.pairwise import settle
from sda_engine.evaluation.statistics import holm, mean, paired_difference, win_rate
from sda_integrations.studies.measures import MEASURES
from sda_integrations.studies.records import Answer, Place, Verdict, words_of
from sda_integrations.studies.results import Comparison, Figure, Measure

WIN_RATE, ALIKE, POINTS = "win_rate", "win_rate_alike", "points"
_MOST_CATEGORIES = 12  # of a task: those with most samples
_LEAST_SAMPLES = 3  # of a category
_REFITS = 200  # of a length-controlled rate, each of which is a regression


class Measured(NamedTuple):
    """A measure, of which there may be several: a win rate over each of some arms, points of each of some judges.

    Attributes:
        name: one of MEASURES.
        over: the arm that a win rate is over, where it is another one than the baseline.
        judge: who judged, where there are several judges.
    """

    name: str
    over: str | None = None
    judge: str | None = None

    @property
    def label(self) -> str:
        """How results name it."""
        return self.name + (f" over {self.over}" if self.over else "") + (f" by {self.judge}" if self.judge else "")

    @property
    def measure(self) -> Measure:
        """What it means."""
        about, more = MEASURES[self.name], self.label.removeprefix(self.name)
        return about.model_copy(update={"name": self.label, "title": about.title + more})


class Key(NamedTuple):
    """Which values: of an arm in a task, by a measure."""

    arm: str
    task: str
    measured: Measured


Values = Mapping[Key, Mapping[str, float]]
"""Key -> sample -> value; of a win rate the outcome, 1, 0 or -1."""


def values_of(answers: Sequence[Answer], verdicts: Sequence[Verdict], judges: Sequence[str], baseline: str) -> Values:
    """All values that are there, each under its arm, task and measure."""
    values: dict[Key, dict[str, float]] = {}
    for answer in answers:
        for measure, value in answer.measures.items():
            values.setdefault(Key(answer.arm, answer.task, Measured(measure)), {})[answer.sample] = value
    for verdict in verdicts:
        judge = verdict.judge if len(judges) > 1 else None
        if verdict.points is not None:
            points = Measured(POINTS, judge=judge)
            values.setdefault(Key(verdict.arm, verdict.task, points), {})[verdict.sample] = verdict.points
        if verdict.pair is not None:
            rate = Measured(WIN_RATE, None if verdict.other == baseline else verdict.other, judge)
            outcome = float(settle(*verdict.pair).outcome)
            values.setdefault(Key(verdict.arm, verdict.task, rate), {})[verdict.sample] = outcome
    return values


def measures_of(values: Values) -> tuple[Measure, ...]:
    """The measures that values are of, in the order of tables."""
    found = {key.measured for key in values}
    found |= {one._replace(name=ALIKE) for one in found if one.name == WIN_RATE}
    order = list(MEASURES)
    return tuple(one.measure for one in sorted(found, key=lambda one: (order.index(one.name), one.label)))


def make_figures(values: Values, answers: Sequence[Answer], baseline: str) -> list[Figure]:
    """Each measure's mean, for all samples of a task and for its larger categories."""
    words = words_of(answers)
    categories = {(one.task, one.sample): one.category for one in answers}
    figures = []
    for key, by_sample in values.items():
        figures.append(_figure(key, by_sample))
        if key.measured.name == WIN_RATE:
            figures.append(_alike(key, by_sample, words, baseline))
        if not _has_categories(key.measured.name):
            continue
        for category in _large(categories[key.task, sample] for sample in by_sample):
            some = {sample: by_sample[sample] for sample in by_sample if categories[key.task, sample] == category}
            figures.append(_figure(key, some, category))
    return figures


def compare(values: Values, baseline: str) -> list[Comparison]:
    """Each arm beside the baseline on the samples that both have, corrected within each measure."""
    made = [comparison for key in values if (comparison := _compared(key, values, baseline)) is not None]
    adjusted: dict[int, float | None] = {}
    for measure in dict.fromkeys(comparison.measure for comparison in made):
        places = [place for place, comparison in enumerate(made) if comparison.measure == measure]
        adjusted.update(zip(places, holm([made[place].p for place in places]), strict=True))
    return [one.model_copy(update={"adjusted_p": adjusted[place]}) for place, one in enumerate(made)]


def pairs_of(key: Key, values: Values, baseline: str) -> Iterator[tuple[str, float, float]]:
    """Sample, the arm's value and the baseline's, where both have one; a win rate's baseline is 0."""
    own = values[key]
    if key.measured.name == WIN_RATE:
        other: Mapping[str, float] = dict.fromkeys(own, 0.0)
    else:
        other = values.get(key._replace(arm=baseline), {})
    for sample, value in own.items():
        if sample in other:
            yield sample, value, other[sample]


def _compared(key: Key, values: Values, baseline: str) -> Comparison | None:
    pairs = list(pairs_of(key, values, baseline))
    if key.arm == baseline or not pairs:
        return None
    samples, own, others = zip(*pairs, strict=True)
    found = paired_difference(own, others, samples)
    return Comparison(
        arm=key.arm,
        baseline=key.measured.over or baseline,
        task=key.task,
        measure=key.measured.label,
        value=found.value,
        low=found.low,
        high=found.high,
        count=found.count,
        wins=found.wins,
        losses=found.losses,
        ties=found.ties,
        p=found.p if found.count > 1 else None,
    )


def _figure(key: Key, by_sample: Mapping[str, float], category: str | None = None) -> Figure:
    summary = win_rate if key.measured.name == WIN_RATE else mean
    return _made(key, summary(list(by_sample.values()), list(by_sample)), len(by_sample), category)


def _alike(key: Key, by_sample: Mapping[str, float], words: Mapping[Place, float], baseline: str) -> Figure:
    """The win rate, had both answers the same length."""
    other = key.measured.over or baseline
    longer = [words[key.task, key.arm, one] - words[key.task, other, one] for one in by_sample]
    found = length_controlled_rate(list(by_sample.values()), longer, list(by_sample), resamples=_REFITS)
    named = key._replace(measured=key.measured._replace(name=ALIKE))
    return _made(named, found.rate, len(by_sample), None)


def _made(key: Key, estimate: Estimate, count: int, category: str | None) -> Figure:
    return Figure(
        arm=key.arm,
        task=key.task,
        measure=key.measured.label,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        count=count,
        category=category,
    )


def _large(categories: Iterable[str | None]) -> list[str]:
    counts = Counter(category for category in categories if category is not None)
    return [name for name, count in counts.most_common(_MOST_CATEGORIES) if count >= _LEAST_SAMPLES]


def _has_categories(measure: str) -> bool:
    """Whether it is worth telling by category: effects, and whether facts are kept."""
    return MEASURES[measure].kind == "effect" or measure in ("fact_kept", "over_refusal")
