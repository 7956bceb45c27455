"""Independent computations that the engine is held against: float64 NumPy, and a plain transformers loop."""

import math

import numpy as np
import torch
from scipy.optimize import brentq


def log_softmax64(logits):
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def steered_logprobs64(base_logits, instructed_logits, strength):
    """Eq. 5, normalised, in float64."""
    base, instructed = log_softmax64(base_logits), log_softmax64(instructed_logits)
    return log_softmax64(instructed + strength * (instructed - base))


def combined_logprobs64(base_logits, instructed_logits, weights, strength):
    """Eq. 5 by each of several contexts, added up by their weights, normalised, in float64."""
    base = log_softmax64(base_logits)
    steered = [
        steered_alone + strength * (steered_alone - base) for steered_alone in map(log_softmax64, instructed_logits)
    ]
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return log_softmax64(sum(share * part for share, part in zip(shares, steered, strict=True)))


def mixture64(instructed_logits, weights):
    """The probabilities of a weighted geometric mean of distributions, in float64, in the textbook form."""
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    factors = [np.exp(log_softmax64(logits)) ** share for logits, share in zip(instructed_logits, shares, strict=True)]
    product = np.prod(factors, axis=0)
    return product / product.sum(axis=-1, keepdims=True)


def js_divergence64(base_logits, instructed_logits):
    """Eq. 6 in float64, in the textbook form with probabilities."""
    p, q = np.exp(log_softmax64(base_logits)), np.exp(log_softmax64(instructed_logits))
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log(p / m), 0.0).sum(axis=-1)
        right = np.where(q > 0, q * np.log(q / m), 0.0).sum(axis=-1)
    return (left + right) / 2


def temperature64(divergence, temperature, sensitivity, minimum):
    """Eq. 7 in float64."""
    return np.maximum(minimum, temperature * 0.5 ** (np.asarray(divergence, dtype=np.float64) / sensitivity))


def amplification64(score):
    """Eq. 3 as the paper writes it."""
    return 2 * (1 / (1 + math.exp(1 - 100 / score)) - 0.5)


@torch.inference_mode()
def two_forward_loop(model, prompts, strengths, max_new_tokens, eos_token_ids, weights=(1.0,)):
    """Greedy SDA as two (or more) separate transformers loops with a cache each; no padding, no batching.

    Args:
        prompts: row -> token ids, with "base" first; "instructed", "instructed 2", ... and "avoided" where wanted.
        strengths: (strength, avoid_strength).
        weights: how much each instructed row counts; they sum to 1.
    """
    strength, avoid_strength = strengths
    pasts = dict.fromkeys(prompts)
    feed = {row: torch.tensor([ids]) for row, ids in prompts.items()}
    tokens = []
    while len(tokens) < max_new_tokens:
        logprobs = {}
        for row in prompts:
            output = model(input_ids=feed[row], past_key_values=pasts[row], use_cache=True)
            pasts[row] = output.past_key_values
            logprobs[row] = torch.log_softmax(output.logits[0, -1].double(), dim=-1)
        base = logprobs["base"]
        instructed = [logprobs[row] for row in prompts if row.startswith("instructed")] or [base]
        parts = [one + strength * (one - base) for one in instructed]
        steered = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        if "avoided" in logprobs:
            steered = steered - avoid_strength * (logprobs["avoided"] - base)
        tokens.append(int(steered.argmax()))
        if tokens[-1] in eos_token_ids:
            break
        feed = {row: torch.tensor([[tokens[-1]]]) for row in prompts}
    return tokens


def kl_divergence64(logprobs, base_logprobs):
    """KL(P || P1) in float64, in the textbook form with probabilities."""
    p = np.exp(logprobs)
    return float(np.where(p > 0, p * (logprobs - base_logprobs), 0.0).sum())


def path_logprobs64(base_logprobs, steered_logprobs, position):
    """The normalised distribution proportional to P1^(1 - s) * P_steered^s, in float64."""
    return log_softmax64((1 - position) * np.asarray(base_logprobs) + position * np.asarray(steered_logprobs))


def furthest_position64(base_logprobs, steered_logprobs, budget):
    """The largest s in [0, 1] that a budget pays for, by SciPy's root finder."""

    def excess(position):
        return kl_divergence64(path_logprobs64(base_logprobs, steered_logprobs, position), base_logprobs) - budget

    return 1.0 if excess(1.0) <= 0 else float(brentq(excess, 0.0, 1.0, xtol=1e-12))


@torch.inference_mode()
def contexts_logprobs64(model, prompts, token_ids):
    """Row -> (tokens, vocab) log-probabilities at the places of a given text, by one plain pass for each context.

    Args:
        prompts: row -> token ids.
        token_ids: the text.
    """
    logprobs = {}
    for row, prompt in prompts.items():
        logits = model(input_ids=torch.tensor([[*prompt, *token_ids]]), use_cache=False).logits[0]
        logprobs[row] = log_softmax64(logits[len(prompt) - 1 : -1].numpy())
    return logprobs


def steered_text64(contexts, token_ids, strengths, *, weights=(1.0,), budget=None, quiet=0.0):
    """(tokens,) log-probabilities of a given text under eq. 5, and our extensions of it, token by token in float64.

    Args:
        contexts: row -> (tokens, vocab); "base", "instructed", "instructed 2", ... and "avoided" where wanted.
        strengths: (strength, avoid_strength).
        weights: how much each instructed row counts; they sum to 1.
        budget: nats for the whole text; None for no limit.
        quiet: nats of divergence below which nothing is spent of it.
    """
    strength, avoid_strength = strengths
    scored = []
    for place, token_id in enumerate(token_ids):
        base = contexts["base"][place]
        instructed = [logprobs[place] for row, logprobs in contexts.items() if row.startswith("instructed")]
        mixed = log_softmax64(sum(w * one for w, one in zip(weights, instructed, strict=True))) if instructed else base
        steered = mixed + strength * (mixed - base)
        avoided = contexts["avoided"][place] if "avoided" in contexts else base
        steered = log_softmax64(steered - avoid_strength * (avoided - base))
        if budget is not None:
            other = mixed if instructed else avoided
            left = budget if js_divergence64(base, other) >= quiet else 0.0
            if left < 1e-9:  # rounding leaves a little
                steered = base
            else:
                steered = path_logprobs64(base, steered, furthest_position64(base, steered, left))
                budget -= kl_divergence64(steered, base)
        scored.append(float(steered[token_id]))
    return np.array(scored)
