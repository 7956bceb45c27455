"""FixedScore: the same score for every request, and so no base response to decode."""

from sda_engine.evaluators.protocol import EvaluationRequest, Score
from sda_engine.steering import check_score


class FixedScore:
    """Gives every request the same score.

    Nothing is decoded twice and streaming starts at once. FixedScore(50) is the engine's default.

    Args:
        value: 0 < value <= 100.

    Raises:
        ConfigError: the value is out of range.
    """

    needs_response = False

    def __init__(self, value: float = 50.0) -> None:
        self.value = check_score(value)

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        return f"FixedScore({repr(self.value).removesuffix('.0')})"

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedScore) and other.value == self.value

    def __hash__(self) -> int:
        return hash((FixedScore, self.value))

    def evaluate(self, request: EvaluationRequest) -> Score:
        """The fixed score."""
        return Score(value=self.value, evaluator=self.name)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The fixed score."""
        return self.evaluate(request)
