"""Evaluators rate the base response; the rating sets how strongly the engine steers."""

from typing import TYPE_CHECKING, Any

from sda_engine.evaluators.contrastive import ContrastiveEvaluator
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, EvaluatorUsage, LocalModel, Score
from sda_engine.evaluators.self_rating import SelfRatingEvaluator

if TYPE_CHECKING:
    from sda_engine.evaluators.openai import OpenAIEvaluator

__all__ = [
    "ContrastiveEvaluator",
    "EvaluationRequest",
    "Evaluator",
    "EvaluatorUsage",
    "FixedScore",
    "LocalModel",
    "OpenAIEvaluator",
    "Score",
    "SelfRatingEvaluator",
]


def __getattr__(name: str) -> Any:
    # The OpenAI SDK takes a second to import, so it waits until somebody asks for the evaluator that uses it
    if name == "OpenAIEvaluator":
        from sda_engine.evaluators.openai import OpenAIEvaluator

        return OpenAIEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
