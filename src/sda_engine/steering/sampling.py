"""Drawing the next token: top-k, top-p and min-p with per-row parameters, and one seed per request."""

import torch
from torch import Tensor

from sda_engine.steering.precision import in_widest

_CANDIDATES = (64, 1024)  # that many are tried before the whole vocabulary is sorted; the first is nearly always enough
_WORTH_IT = 16  # a vocabulary of less than so many times as many is sorted at once
_BLOCK = 64  # tokens whose largest is looked at first, where few of many are wanted


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
    most = vocab if top_k is None else int(top_k.max())
    for size in candidate_counts(vocab, most):
        best, token_ids = top_tokens(logprobs, size)
        place, enough = draw(in_widest(best), uniform, top_k=top_k, top_p=top_p, min_p=min_p, all_tokens=size == vocab)
        if size >= min(most, vocab) or bool(enough.all()):
            break
    return token_ids.gather(-1, place).squeeze(-1)


def candidate_counts(vocab: int, most: int | None = None) -> list[int]:
    """How many of the most likely tokens to draw from: few at first, and more where they are not enough.

    Args:
        vocab: how many there are.
        most: the largest top-k; None where there is none. Top-p is a share of all that top-k leaves.
    """
    most = vocab if most is None else min(most, vocab)
    least = 1 if most == vocab else most
    return [*(size for size in _CANDIDATES if least <= size and _WORTH_IT * size <= vocab), vocab]


def draw(
    logprobs: Tensor,
    uniform: Tensor,
    *,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    all_tokens: bool,
) -> tuple[Tensor, Tensor]:
    """`sample` from the most likely tokens alone.

    Args:
        logprobs: (batch, candidates), nats: the most likely tokens, best first, in float64 where there is one.
        all_tokens: whether there are no others.

    Returns:
        (batch, 1), the place of each row's token; and (batch,) bool, whether more candidates would have given the same.
    """
    probabilities = logprobs.exp()
    kept = _kept(probabilities, top_k=top_k, top_p=top_p, min_p=min_p)
    cumulative = torch.where(kept, probabilities, 0.0).cumsum(dim=-1)
    mass, enough = cumulative[:, -1], ~kept[:, -1]
    threshold = uniform.to(mass) * mass
    if top_k is top_p is min_p is None and not all_tokens:  # nothing is cut off, so the mass of all of them is known
        threshold = uniform.to(mass)
        enough = threshold < mass
    place = torch.searchsorted(cumulative, threshold.unsqueeze(-1), right=True)
    # rounding must not pass the last kept token
    return torch.minimum(place, kept.sum(dim=-1, keepdim=True) - 1).clamp_min(0), enough


def top_tokens(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The most likely tokens of each row, best first: what torch.topk gives, in a fraction of its time for few of many.

    The largest of each block of tokens is found first: no token outside the `count` blocks with the largest ones can be
    among the `count` largest. Where tokens are equally likely, any of them may be taken.

    Args:
        logprobs: (batch, vocab).
        count: from 1 to vocab.

    Returns:
        Their log-probabilities and their token ids, (batch, count) each.
    """
    vocab = logprobs.shape[-1]
    blocks = vocab // _BLOCK
    if 4 * count > blocks:
        best = logprobs.topk(count, dim=-1)
        return best.values, best.indices
    in_blocks = logprobs[:, : blocks * _BLOCK].reshape(-1, blocks, _BLOCK)
    chosen = in_blocks.amax(dim=-1).topk(count, dim=-1).indices  # (batch, count)
    places = torch.arange(_BLOCK, device=logprobs.device)
    token_ids = (chosen.unsqueeze(-1) * _BLOCK + places).flatten(1)  # (batch, count * _BLOCK)
    if blocks * _BLOCK < vocab:
        rest = torch.arange(blocks * _BLOCK, vocab, device=logprobs.device).expand(len(logprobs), -1)
        token_ids = torch.cat([token_ids, rest], dim=-1)
    best = logprobs.gather(-1, token_ids).topk(count, dim=-1)
    return best.values, token_ids.gather(-1, best.indices)


def best_token(values: Tensor) -> Tensor:
    """(batch,): the argmax of each row, (batch, vocab), in a fraction of its time; the first of equals.

    Of a row with NaN it is any token.
    """
    vocab = values.shape[-1]
    blocks = vocab // _BLOCK
    if not blocks:
        return values.argmax(dim=-1)
    in_blocks = values[:, : blocks * _BLOCK].reshape(-1, blocks, _BLOCK)
    first = in_blocks.amax(dim=-1).argmax(dim=-1, keepdim=True) * _BLOCK  # (batch, 1)
    places = first + torch.arange(_BLOCK, device=values.device)
    rest = torch.arange(blocks * _BLOCK, vocab, device=values.device).expand(len(values), -1)
    token_ids = torch.cat([places, rest], dim=-1)  # in rising order, so that the first of equals is the first of all
    return token_ids.gather(-1, values.gather(-1, token_ids).argmax(dim=-1, keepdim=True)).squeeze(-1)


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
