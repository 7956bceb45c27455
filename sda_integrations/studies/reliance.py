"""How far judges can be relied on: what they left unreadable, what order and length do to them, whether they agree."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from sda_engine.evaluation.agreement import kappa, rank_correlation
from sda_engine.evaluation.length_control import length_controlled_rate
from sda_engine.evaluation.pairwise import first_share, order_bias, settle
from sda_integrations.studies.records import Answer, Place, Verdict, words_of
from sda_integrations.studies.results import Agreement, JudgeReport


def report_on(judge: str, verdicts: Sequence[Verdict], answers: Sequence[Answer], baseline: str) -> JudgeReport:
    """What is to be known of one judge."""
    own = [verdict for verdict in verdicts if verdict.judge == judge]
    pairs = [(verdict, verdict.pair) for verdict in own if verdict.pair is not None and verdict.asked]
    words = words_of(answers)
    told = JudgeReport(
        name=judge,
        verdicts=sum(verdict.count - verdict.unreadable for verdict in own),
        unreadable=sum(verdict.unreadable for verdict in own),
    )
    if not pairs:
        return told
    settled = [settle(*pair) for _, pair in pairs]
    groups = [f"{verdict.task} {verdict.sample}" for verdict, _ in pairs]
    longer = [
        words[one.task, one.arm, one.sample] - words[one.task, one.other or baseline, one.sample] for one, _ in pairs
    ]
    share = first_share([verdict for _, pair in pairs for verdict in pair])
    effect = length_controlled_rate([one.outcome for one in settled], longer, groups, resamples=1).length_effect
    return told.model_copy(
        update={
            "order_bias": order_bias(settled, groups=groups).value,
            "first_share": None if share is None else share.value,
            "length_effect": effect,
        }
    )


def agreements(judges: Sequence[str], verdicts: Sequence[Verdict], baseline: str) -> list[Agreement]:
    """Every two judges on the same answers.

    A judge that was not asked for pairs prefers the answer that it gave more points.
    """
    outcomes = {judge: _outcomes([one for one in verdicts if one.judge == judge], baseline) for judge in judges}
    found = []
    for first, second in combinations(judges, 2):
        both = [place for place in outcomes[first] if place in outcomes[second]]
        if both:
            found.append(
                Agreement(
                    judges=(first, second),
                    kappa=kappa(*([outcomes[judge][place] for place in both] for judge in (first, second))),
                    rank_correlation=rank_correlation(*(_by_arm(outcomes[judge], both) for judge in (first, second))),
                    count=len(both),
                )
            )
    return found


def _outcomes(verdicts: Sequence[Verdict], baseline: str) -> Mapping[Place, int]:
    pairs = {
        (one.task, one.arm, one.sample): settle(*one.pair).outcome
        for one in verdicts
        if one.pair is not None and one.other == baseline
    }
    if pairs:
        return pairs
    points = {(one.task, one.arm, one.sample): one.points for one in verdicts if one.points is not None}
    return {
        (task, arm, sample): (value > points[task, baseline, sample]) - (value < points[task, baseline, sample])
        for (task, arm, sample), value in points.items()
        if arm != baseline and (task, baseline, sample) in points
    }


def _by_arm(outcomes: Mapping[Place, int], places: Sequence[Place]) -> dict[str, float]:
    """Each arm's win rate over all tasks."""
    arms = dict.fromkeys(arm for _, arm, _ in places)
    return {
        arm: sum(outcomes[place] for place in places if place[1] == arm) / sum(place[1] == arm for place in places)
        for arm in arms
    }
