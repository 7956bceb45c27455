"""A study in which every name and every text tries to be more than text."""

from sda_integrations.studies.results import Arm, Example, Failure, Figure, Measure, ShownToken
from tests.sda_integrations.studies.report.made_up import made_up_results

HOSTILE = "<script>alert('x')</script>\"]]><img src=x onerror=1>|`*\u202e\x00{{ 7*7 }}"


def hostile_results():
    arms = (Arm(name="plain", kind="plain", settings={}), Arm(name=HOSTILE, kind=HOSTILE, settings={HOSTILE: HOSTILE}))
    measures = tuple(
        Measure(name=name, title=HOSTILE, about=HOSTILE, unit="share", better="higher", kind=kind)
        for name, kind in (("effect", "effect"), ("side", "side effect"), ("cost", "cost"))
    )
    figures = tuple(
        Figure(arm=arm.name, task=HOSTILE, measure=m.name, value=0.5, low=0.4, high=0.6, count=9, category=category)
        for arm in arms
        for m in measures
        for category in (None, HOSTILE)
    )
    tokens = (
        ShownToken(text=HOSTILE, divergence=0.3, changed=True),
        ShownToken(text=HOSTILE, divergence=None, changed=False),
    )
    example = {"task": HOSTILE, "sample": HOSTILE, "arm": HOSTILE, "baseline": "plain", "measure": HOSTILE}
    texts = {"question": HOSTILE, "baseline_answer": HOSTILE, "answer": HOSTILE, "tokens": tokens}
    judge = {"name": HOSTILE, "verdicts": 4, "unreadable": 1, "order_bias": 0.5}
    return made_up_results(
        study=HOSTILE,
        title=HOSTILE,
        question=HOSTILE,
        protocol={HOSTILE: {HOSTILE: [HOSTILE, {"a": HOSTILE}]}, "digest": HOSTILE},
        tasks={HOSTILE: 9},
        arms=arms,
        measures=measures,
        figures=figures,
        comparisons=(),
        judges=(judge,),
        agreements=({"judges": (HOSTILE, HOSTILE), "kappa": 0.1, "rank_correlation": None, "count": 3},),
        stages=({"arm": HOSTILE, "stage": HOSTILE, "seconds": 1.0, "share": 1.0},),
        examples=(Example.model_validate({**example, **texts, "outcome": "win"}),),
        failures=(Failure(task=HOSTILE, arm=HOSTILE, sample=HOSTILE, error=HOSTILE),),
        notes=(HOSTILE,),
    )
