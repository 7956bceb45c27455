"""The choice among a base response and its revisions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sda_engine.choosing.revision import Revision


@dataclass(frozen=True)
class Attempt:
    """One revision of a base response.

    Attributes:
        text: what it says.
        strength: the strength of steering that it was decoded with.
        revision: how it was decoded.
        lost: why it cannot be the answer; None where it can.
        score: the chooser's rating, 0 < score <= 100; None where there is none.
        chooser: who rated.
        chosen: whether it is the answer.
    """

    text: str
    strength: float
    revision: Revision
    lost: str | None = None
    score: float | None = None
    chooser: str | None = None
    chosen: bool = False

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON."""
        return {**vars(self), "revision": self.revision.model_dump(mode="json")}


def choose(scores: Sequence[float | None], base_score: float) -> int | None:
    """Which revision is the answer: the one with the best score, the first of equals; None for the base response.

    Args:
        scores: of the revisions; None for one that cannot be the answer.
        base_score: a revision has to score more than this.
    """
    best: int | None = None
    for place, score in enumerate(scores):
        if score is not None and score > (base_score if best is None else scores[best] or 0.0):
            best = place
    return best
