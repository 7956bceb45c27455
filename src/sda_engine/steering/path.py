"""The path from the base distribution to the steered one, and how far along it a number of nats reaches. Ours.

    log P(s) = log P1 + s * (log P_steered - log P1), normalised, 0 <= s <= 1

s = 0 is the base distribution, s = 1 full steering and, where nothing is avoided, s = 1 / (1 + strength) the instructed
one. KL(P(s) || P1) grows with s from 0, so that every number of nats has one furthest place that it pays for.
"""

import torch
from torch import Tensor

from sda_engine.steering.mathematics import NEGATIVE_INFINITY

_HALVINGS = 24  # of the interval that holds the place: finer than float32 can tell


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
    s = position.unsqueeze(-1).to(base_logprobs.dtype)
    masked = (base_logprobs == NEGATIVE_INFINITY) | (steered_logprobs == NEGATIVE_INFINITY)
    mixed = torch.lerp(base_logprobs, steered_logprobs.to(base_logprobs.dtype), s)
    between = torch.log_softmax(mixed.masked_fill(masked, NEGATIVE_INFINITY), dim=-1)
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
        (batch,), s: 0 where the budget is 0, 1 where it pays for full steering.
    """
    position = torch.ones_like(budget)
    position[budget <= 0] = 0.0
    short = (budget > 0) & (divergence_from_base(steered_logprobs, base_logprobs) > budget)
    if not bool(short.any()):
        return position
    base, steered, most = base_logprobs[short], steered_logprobs[short], budget[short]
    low, high = torch.zeros_like(most), torch.ones_like(most)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        affordable = divergence_from_base(path_logprobs(base, steered, middle), base) <= most
        low, high = torch.where(affordable, middle, low), torch.where(affordable, high, middle)
    position[short] = low
    return position
