"""Evaluators rate the base response; the rating sets how strongly the engine steers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sda_engine.evaluators.contrastive import ContrastiveEvaluator
from sda_engine.evaluators.ensemble import EnsembleEvaluator
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, EvaluatorUsage, LocalModel, Score
from sda_engine.evaluators.self_rating import SelfRatingEvaluator
from sda_engine.evaluators.uncertainty import UncertaintyEvaluator

if TYPE_CHECKING:
    from sda_engine.evaluators.cached import CachedEvaluator
    from sda_engine.evaluators.judge import JudgeEvaluator
    from sda_engine.evaluators.openai import OpenAIEvaluator
    from sda_engine.evaluators.reward_model import RewardModelEvaluator

__all__ = [
    "CachedEvaluator",
    "ContrastiveEvaluator",
    "EnsembleEvaluator",
    "EvaluationRequest",
    "Evaluator",
    "EvaluatorUsage",
    "FixedScore",
    "JudgeEvaluator",
    "LocalModel",
    "OpenAIEvaluator",
    "RewardModelEvaluator",
    "Score",
    "SelfRatingEvaluator",
    "UncertaintyEvaluator",
]

# Those that bring the OpenAI SDK, transformers or SQLAlchemy, a second of imports each, wait until somebody asks
_LAZY = {
    "CachedEvaluator": "cached",
    "JudgeEvaluator": "judge",
    "OpenAIEvaluator": "openai",
    "RewardModelEvaluator": "reward_model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
