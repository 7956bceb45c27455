"""How well evaluators rate given responses, and which settings of steering suit a user's own questions."""

from sda_engine.evaluation.evaluator_check import NamedEvaluator, acheck_evaluators, check_evaluators
from sda_engine.evaluation.evaluator_report import EvaluatorReport
from sda_engine.evaluation.measures import Estimate, share
from sda_engine.evaluation.rated_pairs import RatedPair, read_pairs
from sda_engine.evaluation.tuning import (
    PLAIN,
    PROMPT,
    TUNED,
    TuneCase,
    TunedArm,
    Tuner,
    holds_words,
    matches,
    read_cases,
    recommend,
    scores_at_least,
)

__all__ = [
    "PLAIN",
    "PROMPT",
    "TUNED",
    "Estimate",
    "EvaluatorReport",
    "NamedEvaluator",
    "RatedPair",
    "TuneCase",
    "TunedArm",
    "Tuner",
    "acheck_evaluators",
    "check_evaluators",
    "holds_words",
    "matches",
    "read_cases",
    "read_pairs",
    "recommend",
    "scores_at_least",
    "share",
]
