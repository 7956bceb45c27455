"""The path from the base distribution to the steered one, and how far along it a number of nats reaches. Ours.

    log P(s) = log P1 + s * (log P_steered - log P1), normalised, 0 <= s <= 1

s = 0 is the base distribution, s = 1 full steering and, where nothing is avoided, s = 1 / (1 + strength) the instructed
one. KL(P(s) || P1) grows with s from 0, so that every number of nats has one furthest place that it pays for.

With v = log P_steered - log P1 and K(s) the logarithm of the sum of P1 * exp(s * v), KL is s * K'(s) - K(s) and grows
at the rate s * K''(s); K' and K'' are mean and variance of v under P(s). So Newton's method finds the place in a few
steps, and a constant that log P_steered lacks changes nothing.
"""

import torch
from torch import Tensor

from sda_engine.steering import precision
from sda_engine.steering.mathematics import LOWEST, NEGATIVE_INFINITY

_STEPS = 16  # of Newton's method, within bounds that hold the place; six are nearly always enough


def path_logprobs(base_logprobs: Tensor, steered_logprobs: Tensor, position: Tensor) -> Tensor:
    """The distribution at a place of the path. At 0 and 1 it is base and steered distribution to the bit.

    A token that is masked in the base distribution is masked everywhere; one that is masked in the steered distribution
    alone, everywhere but at 0.

    Args:
        base_logprobs: (batch, vocab), nats, normalised.
        steered_logprobs: (batch, vocab), nats, normalised.
        position: (batch,), s, in [0, 1].

    Returns:
        (batch, vocab), nats, normalised.
    """
    s = position.unsqueeze(-1)
    between = torch.log_softmax(on_path(base_logprobs, steered_logprobs, position), dim=-1)
    return torch.where(s <= 0, base_logprobs, torch.where(s >= 1, steered_logprobs, between))


def on_path(base_logprobs: Tensor, steered_logprobs: Tensor, position: Tensor, *, masked: bool = True) -> Tensor:
    """`path_logprobs`, not normalised, of distributions that need not be normalised either.

    Args:
        base_logprobs: (batch, vocab), nats.
        steered_logprobs: (batch, vocab), nats.
        position: (batch,), s, in [0, 1].
        masked: whether a token may be masked; where it is not, looking for them is saved.
    """
    s = position.unsqueeze(-1).to(base_logprobs.dtype)
    mixed = torch.lerp(base_logprobs, steered_logprobs.to(base_logprobs.dtype), s)  # the ends to the bit
    if not masked:
        return mixed
    gone = (base_logprobs == NEGATIVE_INFINITY) | (steered_logprobs == NEGATIVE_INFINITY)
    between = mixed.masked_fill(gone, NEGATIVE_INFINITY)
    return torch.where(s <= 0, base_logprobs, torch.where(s >= 1, steered_logprobs, between))


def divergence_from_base(logprobs: Tensor, base_logprobs: Tensor) -> Tensor:
    """KL(P || P1): what a distribution spends, as it leaves the base distribution.

    Args:
        logprobs: (batch, vocab), nats, normalised.
        base_logprobs: (batch, vocab), nats, normalised.

    Returns:
        (batch,), nats, at least 0.
    """
    terms = logprobs.exp() * (logprobs - base_logprobs)
    return terms.masked_fill(logprobs == NEGATIVE_INFINITY, 0.0).sum(dim=-1).clamp_min(0.0)


def furthest_position(base_logprobs: Tensor, steered_logprobs: Tensor, budget: Tensor) -> Tensor:
    """The largest s whose distribution diverges from the base by no more than a budget.

    Args:
        base_logprobs: (batch, vocab), nats, normalised.
        steered_logprobs: (batch, vocab), nats, normalised.
        budget: (batch,), nats, at least 0; inf for no limit.

    Returns:
        (batch,), s: 0 where the budget is 0, 1 where it pays for full steering. In float64 what it spends is at most
        1e-9 nats above the budget.
    """
    return walk(base_logprobs, steered_logprobs, budget, log_total=torch.zeros_like(budget))[0]


def walk(
    base_logprobs: Tensor, steered_logprobs: Tensor, budget: Tensor, *, log_total: Tensor, masked: bool = True
) -> tuple[Tensor, Tensor]:
    """`furthest_position`, and what the distribution there spends, nats: (batch,) each.

    Neither distribution need be normalised; `log_total`, (batch,), is what `base_logprobs` has in excess of that. On a
    CPU only the rows whose budget runs short are gone through; elsewhere one would have to wait to know them.
    """
    if masked:
        gone = (base_logprobs == NEGATIVE_INFINITY) | (steered_logprobs == NEGATIVE_INFINITY)
        base_logprobs, steered_logprobs = (
            values.masked_fill(gone, LOWEST) for values in (base_logprobs, steered_logprobs)
        )
    position = torch.where(budget <= 0, 0.0, torch.ones_like(budget))
    whole, rate = _spent(base_logprobs, steered_logprobs, log_total, torch.ones_like(budget))
    spent = torch.where(budget <= 0, 0.0, whole)
    short = (budget > 0) & (whole > budget)
    if not precision.can_look(budget):
        found, paid = _search(base_logprobs, steered_logprobs, log_total, budget, (whole, rate))
        return torch.where(short, found, position), torch.where(short, paid, spent)
    if bool(short.any()):
        position[short], spent[short] = _search(
            base_logprobs[short], steered_logprobs[short], log_total[short], budget[short], (whole[short], rate[short])
        )
    return position, spent


def _search(
    base: Tensor, steered: Tensor, total: Tensor, budget: Tensor, at_end: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Where the budget of each row is spent, and what is spent there.

    Newton's method on the root of KL, which is nearly a straight line; where a step leaves the bounds, the middle.
    """
    close = 5e-10 if base.dtype == torch.float64 else 1e-6
    low, high, paid = torch.zeros_like(budget), torch.ones_like(budget), torch.zeros_like(budget)
    s, (spent, rate) = high, at_end
    for _ in range(_STEPS):
        newton = s - 2 * (spent - (spent * budget).sqrt()) / rate
        s = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        spent, rate = _spent(base, steered, total, s)
        affordable, there = spent <= budget, (spent - budget).abs() <= close
        low, paid = torch.where(affordable | there, s, low), torch.where(affordable | there, spent, paid)
        high = torch.where(affordable & ~there, high, s)
        if precision.can_look(there) and bool(there.all()):
            break
    return low, paid


def _spent(base: Tensor, steered: Tensor, total: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P(s) || P1) and the rate at which it grows with s, (batch,) each; total: the log of the sum of P1."""
    mixed = torch.lerp(base, steered, s.unsqueeze(-1))
    best = mixed.amax(dim=-1, keepdim=True)
    weights = (mixed - best).exp()
    sums = precision.row_sums(weights)
    vector = steered - base
    first = weights * vector
    mean = precision.row_sums(first) / sums
    variance = precision.row_sums(first * vector) / sums - mean * mean
    spent = s * mean - (sums.log() + best.squeeze(-1)) + total
    return spent.clamp_min(0.0), s * variance
