"""How well evaluators rate: ratings of given responses, held against people's labels and against each other."""

from sda_engine.evaluation.evaluator_check import NamedEvaluator, acheck_evaluators, check_evaluators
from sda_engine.evaluation.evaluator_report import EvaluatorReport
from sda_engine.evaluation.measures import Estimate, share
from sda_engine.evaluation.rated_pairs import RatedPair, read_pairs

__all__ = [
    "Estimate",
    "EvaluatorReport",
    "NamedEvaluator",
    "RatedPair",
    "acheck_evaluators",
    "check_evaluators",
    "read_pairs",
    "share",
]
