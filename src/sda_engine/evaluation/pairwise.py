"""Pairs of answers that a judge saw in both orders: what the two verdicts mean together, and how far order decides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sda_engine.errors import ConfigError
from sda_engine.evaluation.measures import RESAMPLES, Estimate, share
from sda_engine.evaluators.preference import Preference

_FOR_THE_FIRST: dict[Preference, int] = {"first": 1, "tie": 0, "second": -1}


@dataclass(frozen=True)
class Settled:
    """What two verdicts on one pair come to.

    Attributes:
        outcome: 1 where the arm won in both orders, -1 where it lost in both, else 0.
        turned: the verdicts contradict each other: the winner changed with the order.
    """

    outcome: int
    turned: bool


def settle(first: Preference, second: Preference) -> Settled:
    """One outcome of the verdicts in two orders.

    An arm wins or loses where both orders say so. Verdicts that name different winners are a tie and order bias. A tie
    in one order and a winner in the other is a tie as well, since they agree by half, but no order bias: they do not
    contradict each other, and a close pair may come out so by chance.

    Args:
        first: the verdict with the arm's answer first and the baseline's second.
        second: the verdict with the baseline's answer first and the arm's second.

    Raises:
        ConfigError: a verdict is none of the three.
    """
    one, other = _for_the_first(first), -_for_the_first(second)
    return Settled(outcome=one if one == other else 0, turned=one * other < 0)


def order_bias(
    settled: Sequence[Settled], *, groups: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> Estimate:
    """The share of pairs, 0..1, whose winner changed with the order.

    Args:
        settled: one a pair, (pairs,).
        groups: each pair's prompt, (pairs,). None: each pair has a prompt of its own.
        resamples: how often the prompts are drawn for the interval.

    Raises:
        ConfigError: there is no pair, or not one group a pair.
    """
    if not settled:
        raise ConfigError("There is no pair to tell an order bias from; give one at least.")
    return share([one.turned for one in settled], _groups(groups, len(settled)), resamples=resamples)


def first_share(
    verdicts: Sequence[Preference], *, groups: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> Estimate | None:
    """The share of verdicts with a winner, 0..1, whose winner stood first.

    A judge to whom order is nothing has 0.5 where each pair was shown in both orders. None where all are ties.

    Args:
        verdicts: of both orders, (verdicts,).
        groups: each verdict's prompt, (verdicts,): the two verdicts on a pair belong together. None: each verdict
            stands alone, which makes the interval too wide if both orders are among them.
        resamples: how often the prompts are drawn for the interval.

    Raises:
        ConfigError: a verdict is none of the three, or there is not one group a verdict.
    """
    signs = np.array([_for_the_first(verdict) for verdict in verdicts], dtype=np.int64)
    members = _groups(groups, len(verdicts))
    decided = np.flatnonzero(signs).tolist()
    if not decided:
        return None
    return share((signs[decided] > 0).tolist(), [members[place] for place in decided], resamples=resamples)


def _for_the_first(verdict: Preference) -> int:
    if verdict not in _FOR_THE_FIRST:
        raise ConfigError(f"A verdict is {verdict!r}; it must be 'first', 'second' or 'tie'.")
    return _FOR_THE_FIRST[verdict]


def _groups(groups: Sequence[str] | None, count: int) -> Sequence[str]:
    if groups is None:
        return [str(place) for place in range(count)]
    if len(groups) != count:
        raise ConfigError(f"There are {len(groups)} groups for {count} verdicts; give one a verdict.")
    return groups
