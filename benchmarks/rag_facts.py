"""Made-up documents and questions about one fact in them, by the names that the benchmarks use."""

from sda_engine.evaluation.checking import REPORTING, TUNING, FactQuestion, Half, fact_questions, holds

__all__ = ["REPORTING", "TUNING", "FactQuestion", "holds", "make_questions"]


def make_questions(count: int, half: Half, *, seed: int = 0) -> list[FactQuestion]:
    """Questions with documents of one half: other facts, other layouts and other draws than those of the other half."""
    return fact_questions(count, seed=seed, half=half)
