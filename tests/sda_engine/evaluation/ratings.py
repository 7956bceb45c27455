"""Pairs and ratings for the tests of reports."""

from sda_engine import PRESETS
from sda_engine.evaluation import RatedPair
from sda_engine.evaluation.evaluator_report import EvaluatorRatings, Rating


def pair(prompt="hello", label=None, score=None, response="an answer"):
    messages = ({"role": "user", "content": prompt},)
    return RatedPair(messages=messages, response=response, alignment=PRESETS["honesty"], label=label, score=score)


def rated(name, *repeats_of_pairs):
    """Ratings whose values are given: a list per pair, None for a failure; each call takes a second."""
    return EvaluatorRatings(name, [[_rating(value) for value in repeats] for repeats in repeats_of_pairs])


def _rating(value):
    return Rating(value, 1.0, None if value is not None else "EvaluationError: no")
