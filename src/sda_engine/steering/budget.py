"""How many nats one answer may spend on leaving the base distribution, and what is left of them. Ours."""

import math
from dataclasses import dataclass

_DUST = 1e-6  # nats: what rounding leaves of a budget that is spent


@dataclass(frozen=True)
class Budget:
    """What an answer may spend, token by token KL(P || P1), nats.

    Attributes:
        opening: from the first token on, until it is spent; inf for no limit. Then the base context decides alone.
        reserve: what is added when the answer would end for the first time, so that it may go on with what the
            instruction asks for at the end.
        quiet_divergence: where the contexts diverge less than this, nats, nothing of `opening` is spent.
        goes_on: whether the answer may not end where the reserve opens.
    """

    opening: float = math.inf
    reserve: float = 0.0
    quiet_divergence: float = 0.0
    goes_on: bool = False


class Purse:
    """What one answer has left of its budget."""

    def __init__(self, budget: Budget) -> None:
        self._left, self._reserve, self._quiet = budget.opening, budget.reserve, budget.quiet_divergence

    @property
    def left(self) -> float:
        """Nats that the next token may spend."""
        return self._left

    @property
    def quiet_divergence(self) -> float:
        """Nats below which the next token spends nothing."""
        return self._quiet

    def spend(self, nats: float) -> None:
        """Take what a token has spent."""
        left = self._left - nats
        self._left = left if left > _DUST else 0.0

    def opened(self) -> "Purse | None":
        """The same with the reserve added, since the answer would end; None where there is none any more."""
        if self._reserve <= 0:
            return None
        return Purse(Budget(self._left + self._reserve))
