"""What the figures say in words: a sentence per effect, and what a reader should beware of."""

from collections.abc import Sequence

from sda_integrations.studies.report.numbers import difference, direction, header, percent, plural
from sda_integrations.studies.report.readings import LEVEL, Readings, standing
from sda_integrations.studies.results import Comparison, Measure, StudyResults

_FEW_SAMPLES = 50  # below, an interval of a share spans up to 28 percentage points
_MUCH_ORDER_BIAS = 0.3
_MUCH_PREFERENCE = 0.2  # of the first place, beside one half

READING = (
    f"A difference is told where the paired test gives p below {LEVEL} after Holm's correction over all comparisons of "
    "that measure. That none can be told does not mean that there is none."
)
JUDGE_COLUMNS = {
    "Unreadable": "Verdicts that were asked for and did not come in a form that can be read. Such samples are missing "
    "from the judged measures; where there are many, those that are left may not be typical.",
    "Order bias": "Pairs whose verdict turned when the two answers changed places. They count as ties: a large share "
    "hides differences, and a judge above 30% hardly tells the answers apart.",
    "First place": "Verdicts on pairs for the answer that stood first, ties left out. 50% is no preference.",
    "Length effect": "How much likelier, in log-odds, an answer wins that is longer than the other by one standard "
    "deviation of the differences. 0 is no preference; far above 0, a win may be for length alone.",
}
AGREEMENT_COLUMNS = {
    "Kappa": "Agreement of verdicts on the same pairs beyond what chance gives: 1 is full agreement, 0 is chance. "
    "Below 0.4, what one judge says of a single answer says little of what the other would.",
    "Rank correlation": "Whether both rank the arms alike (Spearman): 1 is the same order, -1 the reverse. Where it is "
    "low, the order of the arms is a matter of the judge.",
}


def verdicts(readings: Readings) -> list[tuple[str, str]]:
    """For each effect that arms are compared by: its header, and which arms lie above or below the baseline."""
    effects = [measure for measure in readings.measures.values() if measure.kind == "effect"]
    found = [(_headed(measure), _verdict(readings, measure)) for measure in effects]
    return [(title, sentence) for title, sentence in found if sentence]


def warnings(results: StudyResults) -> list[str]:
    """What may make the figures less sure than they look."""
    found = []
    few = [f"{task} ({samples})" for task, samples in results.tasks.items() if samples < _FEW_SAMPLES]
    if few:
        found.append(
            f"Few samples: {_listed(few)}. Intervals are wide, and a difference that exists can easily stay unseen."
        )
    for judge in results.judges:
        asked = judge.verdicts + judge.unreadable
        if judge.unreadable:
            found.append(
                f"{plural(judge.unreadable, 'verdict')} of {judge.name} could not be read, "
                f"{percent(judge.unreadable / asked)} of those asked for."
            )
        if judge.order_bias is not None and judge.order_bias > _MUCH_ORDER_BIAS:
            found.append(
                f"{judge.name} turned {percent(judge.order_bias)} of its verdicts with the order of the answers; "
                "these count as ties."
            )
        if judge.first_share is not None and abs(judge.first_share - 0.5) > _MUCH_PREFERENCE:
            found.append(
                f"{judge.name} prefers a place: {percent(judge.first_share)} of its verdicts, ties left out, are for "
                "the answer that stood first."
            )
    if results.failures:
        found.append(f"{plural(len(results.failures), 'failure')}: what failed counts in no figure.")
    return found


def _headed(measure: Measure) -> str:
    way = direction(measure)
    return f"{header(measure)}, {way}" if way else header(measure)


def _verdict(readings: Readings, measure: Measure) -> str:
    above, below, open_arms = [], [], []
    for arm in readings.results.arms:
        rows = [readings.comparison(arm.name, task, measure.name) for task in readings.results.tasks]
        compared = [row for row in rows if row is not None]
        told = [row for row in compared if standing(row, measure)]
        more, less = [row for row in told if row.value > 0], [row for row in told if row.value < 0]
        above += [_told(more, len(compared), measure)] if more else []
        below += [_told(less, len(compared), measure)] if less else []
        open_arms += [arm.name] if compared and not told else []
    baseline = readings.results.baseline
    parts = [
        *([f"above {baseline}: {_listed(above)}"] if above else []),
        *([f"below {baseline}: {_listed(below)}"] if below else []),
        *([f"no difference can be told for {_listed(open_arms)}"] if open_arms else []),
    ]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _told(rows: Sequence[Comparison], compared: int, measure: Measure) -> str:
    """An arm with how far it lies from the baseline, and where."""
    values = sorted((row.value for row in rows), key=abs)
    ends = list(dict.fromkeys(difference(value, measure.unit) for value in (values[0], values[-1])))
    if compared == 1:
        return f"{rows[0].arm} ({ends[0]})"
    tasks = f"all {compared} tasks" if len(rows) == compared else f"{len(rows)} of {compared} tasks"
    place = f"in {rows[0].task}" if len(rows) == 1 else f"in {tasks}"
    return f"{rows[0].arm} ({' to '.join(ends)} {place})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
