"""The mathematics of SDA (Xia and Deng 2025, arXiv 2511.16324): pure functions of tensors, batch first.

All of it runs in float32 at least, whatever the model's dtype. Log-probabilities are in nats. Parameters such as
`strength` take a float for the whole batch or a (batch,) tensor. A token at -inf is masked (by a grammar, say),
and masked tokens stay masked. A NaN stays in its own row.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sda_engine.steering.precision import at_least_float32, in_widest, per_row, row_sums

LOG_2 = math.log(2.0)
NEGATIVE_INFINITY = float("-inf")
LOWEST = -1e30  # nats: in place of -inf where it is multiplied with a probability of 0, or subtracted


def steering_vector(base_logprobs: Tensor, instructed_logprobs: Tensor) -> Tensor:
    """What the instruction changes: log P2 - log P1, per token of the vocabulary.

    A token that is masked in either context gets 0: there is nothing to steer, and an infinite bonus would put
    all probability on one token.

    Args:
        base_logprobs: (batch, vocab), nats.
        instructed_logprobs: (batch, vocab), nats.

    Returns:
        (batch, vocab), nats, float32.
    """
    base, instructed = at_least_float32(base_logprobs), at_least_float32(instructed_logprobs)
    return (instructed - base).masked_fill((base == NEGATIVE_INFINITY) | (instructed == NEGATIVE_INFINITY), 0.0)


def steer(
    base_logprobs: Tensor,
    instructed_logprobs: Tensor,
    strength: float | Tensor,
    *,
    avoided_logprobs: Tensor | None = None,
    avoid_strength: float | Tensor = 0.0,
    masked: bool = True,
) -> Tensor:
    """Steered log-probabilities, not normalised: log P2 + strength * (log P2 - log P1), paper eq. 5.

    With `avoided_logprobs`, our extension, minus avoid_strength * (log P3 - log P1): a step away from the context
    that describes the unwanted behaviour. Strength 0 and avoid_strength 0 give `instructed_logprobs` to the bit.

    Args:
        base_logprobs: (batch, vocab), nats.
        instructed_logprobs: (batch, vocab), nats.
        strength: gain * amplification, at least 0; float or (batch,).
        avoided_logprobs: (batch, vocab), nats, or None.
        avoid_strength: at least 0; float or (batch,).
        masked: whether a token may be masked in any of the contexts. Where it is not, looking for them is saved; a row
            in which there is one all the same then holds NaN or infinity, unless what it holds is right.

    Returns:
        (batch, vocab), float32.
    """
    base, instructed = at_least_float32(base_logprobs), at_least_float32(instructed_logprobs)
    if masked:
        steered = torch.addcmul(instructed, per_row(strength, instructed), steering_vector(base, instructed))
    elif instructed_logprobs is base_logprobs:
        steered = instructed
    else:  # the same in one pass over the vocabulary
        steered = torch.lerp(base, instructed, 1 + per_row(strength, instructed))
    if avoided_logprobs is not None:
        avoided = at_least_float32(avoided_logprobs)
        away = steering_vector(base, avoided) if masked else avoided - base
        steered = torch.addcmul(steered, per_row(avoid_strength, instructed), away, value=-1)
    return steered


def mix_logits(instructed_logits: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
    """The logits of one instructed distribution for several: log P2 = sum of w_i log P_i, up to a constant per row.

    A weighted geometric mixture (logarithmic opinion pool): a token is likely where all contexts accept it, and one
    that is masked in any of them is masked. A deviation from the paper, which has one instruction. Steering by each
    context with the same strength and adding up by weights is steering by the mixture:
    sum of w_i (log P_i + strength * (log P_i - log P1)) = log P2 + strength * (log P2 - log P1).

    Args:
        instructed_logits: (batch, vocab) of each context, logits or log-probabilities.
        weights: (contexts,) or (batch, contexts), numbers above 0; only their ratios matter.

    Returns:
        (batch, vocab), float64 (float32 on a device that has no float64), not normalised; the logits of a single
        context as they are, in float32 at least.
    """
    if len(instructed_logits) == 1:
        return at_least_float32(instructed_logits[0])
    first = in_widest(instructed_logits[0])
    ratios = torch.as_tensor(weights, dtype=first.dtype, device=first.device)
    ratios = ratios.expand(len(first), len(instructed_logits))
    ratios = ratios / ratios.amax(dim=-1, keepdim=True)
    shares = ratios / ratios.sum(dim=-1, keepdim=True)  # (batch, contexts)
    shares = shares.clamp_min(torch.finfo(first.dtype).tiny)  # 0 * -inf would be NaN
    mixed = shares[:, :1] * first
    for place, logits in enumerate(instructed_logits[1:], start=1):
        mixed = torch.addcmul(mixed, shares[:, place : place + 1], in_widest(logits))
    return mixed


def js_divergence(base_logprobs: Tensor, instructed_logprobs: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the two distributions, paper eq. 6.

    Args:
        base_logprobs: (batch, vocab), nats, normalised.
        instructed_logprobs: (batch, vocab), nats, normalised.

    Returns:
        (batch,), nats, float32, clamped to [0, ln 2]: rounding can push an exact 0 slightly below.
    """
    base, instructed = at_least_float32(base_logprobs), at_least_float32(instructed_logprobs)
    return divergence_of(base.exp(), base, instructed.exp(), instructed)


def divergence_of(p1: Tensor, logprobs1: Tensor, p2: Tensor, logprobs2: Tensor, *, masked: bool = True) -> Tensor:
    """`js_divergence` of two distributions whose probabilities are known too.

    Args:
        p1, p2: (batch, vocab), float32 or float64.
        logprobs1, logprobs2: (batch, vocab), nats.
        masked: whether a token may have probability 0, or the result be differentiated. Where not, time is saved; a row
            in which one has probability 0 all the same is NaN.
    """
    mixture = torch.lerp(p1, p2, 0.5)
    if masked:  # so that 0 is multiplied with a number
        mixture = mixture.clamp_min(torch.finfo(p1.dtype).tiny).log()
        left, right = (logprobs.clamp_min(LOWEST) - mixture for logprobs in (logprobs1, logprobs2))
        terms = torch.addcmul(left * p1, right, p2)
    else:  # in place, for the sake of the cache
        mixture.log_()
        terms = (logprobs1 - mixture).mul_(p1).addcmul_(torch.sub(logprobs2, mixture, out=mixture), p2)
    return (row_sums(terms) / 2).clamp(0.0, LOG_2)


def apply_plausibility(steered_logprobs: Tensor, instructed_logprobs: Tensor, plausibility: float | Tensor) -> Tensor:
    """Mask the tokens that the instructed context finds implausible: P2 < plausibility * max P2.

    It keeps a token that the base context makes nearly impossible from winning by its enormous bonus alone.
    Contrastive decoding's constraint (Li et al. 2023, arXiv 2210.15097); a deviation from the paper where above 0.

    Args:
        steered_logprobs: (batch, vocab).
        instructed_logprobs: (batch, vocab), nats.
        plausibility: alpha in [0, 1]; float or (batch,).
    """
    if isinstance(plausibility, (int, float)) and plausibility == 0:
        return steered_logprobs
    threshold = instructed_logprobs.amax(dim=-1, keepdim=True) + per_row(plausibility, instructed_logprobs).log()
    return steered_logprobs.masked_fill(instructed_logprobs < threshold, NEGATIVE_INFINITY)


def entropy(logprobs: Tensor) -> Tensor:
    """How undecided a distribution is: 0 where one token is certain, ln(vocab) where all are equally likely.

    Args:
        logprobs: (batch, vocab), nats, normalised.

    Returns:
        (batch,), nats.
    """
    return row_sums(logprobs.exp() * logprobs.clamp_min(LOWEST)).abs()  # no term is above 0, but for rounding
