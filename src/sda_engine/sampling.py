"""Drawing the next token: top-k, top-p and min-p with per-row parameters, and one seed per request."""

import torch
from torch import Tensor

_CANDIDATES = 1024  # sorting this many is eight times cheaper than a vocabulary of 49k, and nearly always enough


def make_generator(seed: int | None) -> torch.Generator:
    """A random number generator of one request's own, on the CPU: the same seed repeats, None is fresh."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def sample(
    logprobs: Tensor,
    uniform: Tensor,
    *,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
) -> Tensor:
    """Draw one token per row.

    As in transformers, top-k is applied first, then top-p to what is left and renormalised, then min-p.

    Args:
        logprobs: (batch, vocab), nats, normalised; a one-hot row (greedy) always gives its argmax.
        uniform: (batch,) in [0, 1): the random numbers to draw with.
        top_k: (batch,) whole numbers of at least 1, or None for no limit.
        top_p: (batch,) in (0, 1], or None for no limit.
        min_p: (batch,) in [0, 1], or None for no limit.

    Returns:
        (batch,) token ids.
    """
    vocab = logprobs.shape[-1]
    for size in (min(_CANDIDATES, vocab), vocab):
        best, token_ids = logprobs.topk(size, dim=-1)  # sorted, best first
        probabilities = best.double().exp()
        kept = _kept(probabilities, top_k=top_k, top_p=top_p, min_p=min_p)
        if size == vocab or not bool(kept[:, -1].any()):
            break
    cumulative = torch.where(kept, probabilities, 0.0).cumsum(dim=-1)
    threshold = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True)
    place = torch.minimum(place, kept.sum(dim=-1, keepdim=True) - 1)  # rounding must not pass the last kept token
    return token_ids.gather(-1, place).squeeze(-1)


def _kept(probabilities: Tensor, *, top_k: Tensor | None, top_p: Tensor | None, min_p: Tensor | None) -> Tensor:
    """Which of the sorted candidates the limits leave: (batch, candidates) bool, a prefix of each row."""
    kept = probabilities > 0
    if top_k is not None:
        rank = torch.arange(probabilities.shape[-1], device=probabilities.device)
        kept &= rank < top_k.to(rank).unsqueeze(-1)
    if top_p is not None:
        # without a top-k the probabilities already sum to 1 over the whole vocabulary
        left = torch.where(kept, probabilities, 0.0)
        mass = 1.0 if top_k is None else left.sum(dim=-1, keepdim=True)
        before = left.cumsum(dim=-1) - left
        limit = top_p.to(probabilities).unsqueeze(-1)
        kept &= (before < limit * mass) | (limit >= 1.0)
    if min_p is not None:
        kept &= probabilities >= min_p.to(probabilities).unsqueeze(-1) * probabilities[:, :1]
    return kept
