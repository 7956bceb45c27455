"""Examples for the report: samples where an arm does clearly better or worse than the baseline."""

from collections.abc import Iterator, Sequence
from typing import Literal

from sda_integrations.studies.analysis import Key, Values, pairs_of
from sda_integrations.studies.measures import MEASURES
from sda_integrations.studies.records import Answer
from sda_integrations.studies.results import Example, ShownToken

MOST = 24  # in a report


def pick_examples(values: Values, answers: Sequence[Answer], baseline: str) -> list[Example]:
    """A win and a loss of each arm in each task, by the first of its measures that has some; fair to all arms.

    Where there would be too many, those with the largest differences are taken.
    """
    by_place = {(one.task, one.arm, one.sample): one for one in answers}
    found: list[tuple[float, Example]] = []
    for arm, task in dict.fromkeys((key.arm, key.task) for key in values if key.arm != baseline):
        for key in _effects(values, arm, task):
            pairs = list(pairs_of(key, values, baseline))
            if any(own != other for _, own, other in pairs):
                outcomes: tuple[tuple[Literal["win", "loss"], int], ...] = (("win", 1), ("loss", -1))
                for outcome, sign in outcomes:
                    sample, own, other = max(pairs, key=lambda pair: sign * (pair[1] - pair[2]))
                    sides = [by_place.get((task, name, sample)) for name in (arm, baseline)]
                    if sign * (own - other) > 0 and sides[0] is not None and sides[1] is not None:
                        found.append((abs(own - other), _example(key, outcome, sides[0], sides[1])))
                break
    found.sort(key=lambda pair: -pair[0])
    kept = found[:MOST]
    return [example for _, example in sorted(kept, key=lambda pair: (pair[1].task, pair[1].arm, pair[1].outcome))]


def _effects(values: Values, arm: str, task: str) -> Iterator[Key]:
    """The measures of an arm in a task by which it can win: effects first, then facts."""
    for name in (*(name for name, measure in MEASURES.items() if measure.kind == "effect"), "fact_kept"):
        for key in values:
            if (key.arm, key.task, key.measured.name, key.measured.over) == (arm, task, name, None):
                yield key


def _example(key: Key, outcome: Literal["win", "loss"], own: Answer, other: Answer) -> Example:
    return Example(
        task=key.task,
        sample=own.sample,
        arm=key.arm,
        baseline=other.arm,
        measure=key.measured.label,
        outcome=outcome,
        question=own.question,
        baseline_answer=other.text,
        answer=own.text,
        tokens=tuple(
            ShownToken(text=token["text"], divergence=token["divergence"], changed=bool(token["changed"]))
            for token in own.tokens
        ),
    )
