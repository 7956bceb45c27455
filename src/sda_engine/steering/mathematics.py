"""The mathematics of SDA (Xia and Deng 2025, arXiv 2511.16324): pure functions of tensors, batch first.

All of it runs in float32 at least, whatever the model's dtype. Log-probabilities are in nats. Parameters such as
`strength` take a float for the whole batch or a (batch,) tensor. A token at -inf is masked (by a grammar, say),
and masked tokens stay masked. A NaN stays in its own row.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from sda_engine.errors import ConfigError
from sda_engine.settings import shown
from sda_engine.steering.amplification import as_number
from sda_engine.steering.precision import in_widest

LOG_2 = math.log(2.0)
NEGATIVE_INFINITY = float("-inf")


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
    base, instructed = _at_least_float32(base_logprobs), _at_least_float32(instructed_logprobs)
    vector = instructed - base
    if not (_may_hold_masked(base) or _may_hold_masked(instructed)):
        return vector
    return vector.masked_fill((base == NEGATIVE_INFINITY) | (instructed == NEGATIVE_INFINITY), 0.0)


def steer(
    base_logprobs: Tensor,
    instructed_logprobs: Tensor,
    strength: float | Tensor,
    *,
    avoided_logprobs: Tensor | None = None,
    avoid_strength: float | Tensor = 0.0,
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

    Returns:
        (batch, vocab), float32.
    """
    instructed = _at_least_float32(instructed_logprobs)
    steered = torch.addcmul(instructed, _per_row(strength, instructed), steering_vector(base_logprobs, instructed))
    if avoided_logprobs is not None:
        away = steering_vector(base_logprobs, avoided_logprobs)
        steered = torch.addcmul(steered, _per_row(avoid_strength, instructed), away, value=-1)
    return steered


def js_divergence(base_logprobs: Tensor, instructed_logprobs: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the two distributions, paper eq. 6.

    Args:
        base_logprobs: (batch, vocab), nats, normalised.
        instructed_logprobs: (batch, vocab), nats, normalised.

    Returns:
        (batch,), nats, float32, clamped to [0, ln 2]: rounding can push an exact 0 slightly below.
    """
    base, instructed = _at_least_float32(base_logprobs), _at_least_float32(instructed_logprobs)
    p1, p2 = base.exp(), instructed.exp()
    smallest = torch.finfo(base.dtype).tiny  # where both are 0, so that 0 is multiplied with a number
    mixture = ((p1 + p2) / 2).clamp_min(smallest).log()
    terms = _kl_terms(p1, base, mixture) + _kl_terms(p2, instructed, mixture)
    return (terms.sum(dim=-1) / 2).clamp(0.0, LOG_2)


def divergence_temperature(
    divergence: Tensor,
    *,
    temperature: float | Tensor,
    sensitivity: float | Tensor,
    min_temperature: float | Tensor,
) -> Tensor:
    """T = max(T_min, T0 * 0.5 ** (JS / sigma)), paper eq. 7: the sharper, the more the instruction matters.

    A temperature of 0 means greedy and stays 0, whatever the minimum.

    Args:
        divergence: (batch,), nats.
        temperature: T0, at least 0; float or (batch,).
        sensitivity: sigma, above 0, nats; float or (batch,).
        min_temperature: T_min, at least 0; float or (batch,).

    Returns:
        (batch,), float32.
    """
    divergence = _at_least_float32(divergence)
    start = _as_vector(temperature, divergence)
    cooled = start * torch.exp2(-divergence / _as_vector(sensitivity, divergence))
    return torch.where(start == 0, start, torch.maximum(cooled, _as_vector(min_temperature, divergence)))


@dataclass(frozen=True)
class TemperatureSignals:
    """What a temperature schedule may look at when it sets the temperature of the next token.

    Attributes:
        divergence: (batch,), nats, 0..ln 2.
        critical: (batch,) bool: whether the instruction changes which token is the most likely one.
        temperature: (batch,), T0.
        sensitivity: (batch,), sigma, nats.
        min_temperature: (batch,), T_min.
        critical_divergence: (batch,), nats: from this divergence on a changed most likely token matters.
        in_category: (batch,) bool: whether the most likely token after steering is of a category that the user named.
    """

    divergence: Tensor
    critical: Tensor
    temperature: Tensor
    sensitivity: Tensor
    min_temperature: Tensor
    critical_divergence: Tensor | float = 0.0
    in_category: Tensor | bool = False


TemperatureSchedule = Callable[[TemperatureSignals], Tensor | float]


def divergence_schedule(signals: TemperatureSignals) -> Tensor:
    """Paper eq. 7 for every token."""
    return divergence_temperature(
        signals.divergence,
        temperature=signals.temperature,
        sensitivity=signals.sensitivity,
        min_temperature=signals.min_temperature,
    )


def constant_schedule(signals: TemperatureSignals) -> Tensor:
    """T0 for every token."""
    return signals.temperature


def critical_tokens_schedule(signals: TemperatureSignals) -> Tensor:
    """Paper eq. 7 at critical tokens, T0 elsewhere (our extension).

    Critical is where the instruction changes the most likely token and the divergence is high, and where the most
    likely token after steering is of a category that the user named.
    """
    changed = signals.critical & (signals.divergence >= signals.critical_divergence)
    return torch.where(changed | signals.in_category, divergence_schedule(signals), signals.temperature)


TEMPERATURE_SCHEDULES: Mapping[str, TemperatureSchedule] = MappingProxyType(
    {
        "divergence": divergence_schedule,
        "constant": constant_schedule,
        "critical_tokens": critical_tokens_schedule,
    }
)


_OURS = tuple(TEMPERATURE_SCHEDULES.values())


@dataclass(frozen=True)
class SteeredStep:
    """The steered distribution of the next token, one row per request.

    Attributes:
        logprobs: (batch, vocab), nats, normalised: the distribution to sample from. A greedy row (temperature 0)
            holds the limit: 0 at the argmax and -inf elsewhere.
        steered_logprobs: (batch, vocab), nats, normalised: the same before the temperature. With strength 0, and
            nothing avoided or dropped, it is the instructed distribution to the bit.
        base_logprobs: (batch, vocab), nats, normalised.
        instructed_logprobs: (batch, vocab), nats, normalised.
        divergence: (batch,), nats, 0..ln 2.
        temperature: (batch,).
    """

    logprobs: Tensor
    steered_logprobs: Tensor
    base_logprobs: Tensor
    instructed_logprobs: Tensor
    divergence: Tensor
    temperature: Tensor


def steered_step(
    base_logits: Tensor,
    instructed_logits: Tensor | None,
    *,
    strength: float | Tensor,
    temperature: float | Tensor,
    sensitivity: float | Tensor = 2 * LOG_2,
    min_temperature: float | Tensor = 0.0,
    plausibility: float | Tensor = 0.0,
    avoided_logits: Tensor | None = None,
    avoid_strength: float | Tensor = 0.0,
    schedule: TemperatureSchedule = divergence_schedule,
    critical_divergence: float | Tensor = 0.0,
    critical_tokens: Tensor | None = None,
) -> SteeredStep:
    """One step of SDA for a batch: logits under each context to the distribution of the next token.

    Constraint masks belong on the logits of every context before this call. Without an instruction
    (`instructed_logits` None) P2 is P1, and the divergence is taken between base and avoided context.

    Args:
        base_logits: (batch, vocab), any float dtype.
        instructed_logits: (batch, vocab), or None.
        strength: gain * amplification, at least 0; float or (batch,).
        temperature: T0, at least 0; 0 is greedy; float or (batch,).
        sensitivity: sigma, above 0, nats; float or (batch,).
        min_temperature: T_min, at least 0; float or (batch,).
        plausibility: alpha in [0, 1]; tokens with P2 < alpha * max P2 are dropped; 0 is the paper.
        avoided_logits: (batch, vocab), or None.
        avoid_strength: at least 0; float or (batch,).
        schedule: sets the temperature from the divergence; what it returns, a float or (batch,), is checked.
        critical_divergence: at least 0, nats; float or (batch,); for schedules that tell critical tokens apart.
        critical_tokens: (vocab,) bool: tokens of the categories that the user named; None for none.

    Raises:
        ConfigError: a schedule of the user's returned no temperature.
    """
    base = torch.log_softmax(_at_least_float32(base_logits), dim=-1)
    instructed = base if instructed_logits is None else torch.log_softmax(_at_least_float32(instructed_logits), dim=-1)
    avoided = None if avoided_logits is None else torch.log_softmax(_at_least_float32(avoided_logits), dim=-1)
    other = avoided if instructed_logits is None and avoided is not None else instructed

    divergence = js_divergence(base, other) if other is not base else base.new_zeros(base.shape[0])
    start = in_widest(base_logits)
    # steering multiplies rounding errors, so it starts from the logits again, in float64; normalising drops the
    # constants by which logits and log-probabilities differ
    steered = steer(
        start,
        start if instructed_logits is None else in_widest(instructed_logits),
        strength,
        avoided_logprobs=None if avoided_logits is None else in_widest(avoided_logits),
        avoid_strength=avoid_strength,
    )
    steered = torch.log_softmax(apply_plausibility(steered, instructed, plausibility), dim=-1)
    signals = TemperatureSignals(
        divergence=divergence,
        critical=_differ_in_best(base, other, schedule),
        temperature=_as_vector(temperature, divergence),
        sensitivity=_as_vector(sensitivity, divergence),
        min_temperature=_as_vector(min_temperature, divergence),
        critical_divergence=_as_vector(critical_divergence, divergence),
        in_category=_best_is_one_of(steered, critical_tokens),
    )
    used = _as_temperature(schedule(signals), schedule, divergence)
    logprobs = apply_temperature(steered, used.to(steered.dtype))
    kept = _as_vector(strength, divergence) == 0  # (batch,): where the instructed distribution is what there is
    kept &= _as_vector(plausibility, divergence) == 0
    if avoided is not None:
        kept &= _as_vector(avoid_strength, divergence) == 0
    reported = torch.where(kept.unsqueeze(-1), instructed.float(), steered.float())  # to the bit, which float64 is not
    return SteeredStep(logprobs.float(), reported, base, instructed, divergence, used)


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
    threshold = instructed_logprobs.amax(dim=-1, keepdim=True) + _per_row(plausibility, instructed_logprobs).log()
    return steered_logprobs.masked_fill(instructed_logprobs < threshold, NEGATIVE_INFINITY)


def apply_temperature(logprobs: Tensor, temperature: Tensor) -> Tensor:
    """softmax(logprobs / T) as log-probabilities; T = 0 gives the limit, all probability on the argmax.

    Args:
        logprobs: (batch, vocab).
        temperature: (batch,), at least 0.

    Returns:
        (batch, vocab), normalised. A row with NaN keeps one.
    """
    greedy = (temperature == 0).unsqueeze(-1)
    if bool(greedy.all()):
        return _only_the_best(logprobs)
    centred = logprobs - logprobs.amax(dim=-1, keepdim=True)  # so that a tiny temperature cannot overflow the best
    scaled = torch.log_softmax(centred / torch.where(greedy, 1.0, temperature.unsqueeze(-1)), dim=-1)
    if not bool(greedy.any()):
        return scaled
    return torch.where(greedy, _only_the_best(logprobs), scaled)


def entropy(logprobs: Tensor) -> Tensor:
    """How undecided a distribution is: 0 where one token is certain, ln(vocab) where all are equally likely.

    Args:
        logprobs: (batch, vocab), nats, normalised.

    Returns:
        (batch,), nats.
    """
    terms = (logprobs.exp() * logprobs).masked_fill(logprobs == NEGATIVE_INFINITY, 0.0)
    return terms.sum(dim=-1).abs()  # no term is above 0, but for rounding


def _only_the_best(logprobs: Tensor) -> Tensor:
    """0 at the argmax and -inf elsewhere; NaN at the argmax of a row with NaN, or with nothing but -inf."""
    most = logprobs.amax(dim=-1, keepdim=True)
    best = logprobs.argmax(dim=-1, keepdim=True)
    return torch.full_like(logprobs, NEGATIVE_INFINITY).scatter(-1, best, most - most)


def _differ_in_best(base: Tensor, other: Tensor, schedule: TemperatureSchedule) -> Tensor:
    """(batch,) bool: whether the most likely tokens differ; not looked up for the schedules that do not ask."""
    if schedule in (divergence_schedule, constant_schedule):
        return torch.zeros(base.shape[0], dtype=torch.bool, device=base.device)
    return base.argmax(dim=-1) != other.argmax(dim=-1)


def _as_temperature(returned: object, schedule: TemperatureSchedule, divergence: Tensor) -> Tensor:
    """(batch,): what a schedule returned, in the dtype and on the device of the divergence.

    Raises:
        ConfigError: it is neither a number nor one for each row, or not all of them are finite and at least 0.
    """
    if isinstance(returned, Tensor) and schedule in _OURS:
        return returned
    per_row = isinstance(returned, Tensor) and returned.shape == divergence.shape and not returned.is_complex()
    used = _as_vector(cast(Tensor, returned) if per_row else as_number(returned), divergence)
    # a divergence of NaN comes from the logits, which is theirs to report and no fault of the schedule
    if bool(((used >= 0) & (used < math.inf) | divergence.isnan()).all()):
        return used
    name = getattr(schedule, "__name__", type(schedule).__name__)
    given = shown(returned.tolist() if isinstance(returned, Tensor) else returned)
    raise ConfigError(
        f"The temperature schedule {name!r} returned {given}: it must return a finite number of at least 0, or a "
        f"tensor of {len(divergence)} of them, one for each row. Mend it, or use one of "
        f"{', '.join(TEMPERATURE_SCHEDULES)}."
    )


def _best_is_one_of(logprobs: Tensor, tokens: Tensor | None) -> Tensor:
    """(batch,) bool: whether the most likely token is one of some, given as a (vocab,) bool mask."""
    if tokens is None:
        return torch.zeros(logprobs.shape[0], dtype=torch.bool, device=logprobs.device)
    return tokens[logprobs.argmax(dim=-1)]


def _may_hold_masked(logprobs: Tensor) -> bool:
    """Whether a token may be masked. On a CPU it is cheap to look; elsewhere the answer would have to be waited for."""
    return logprobs.device.type != "cpu" or bool((logprobs.amin(dim=-1) == NEGATIVE_INFINITY).any())


def _kl_terms(probabilities: Tensor, logprobs: Tensor, mixture: Tensor) -> Tensor:
    """P * (log P - log M) per token; 0 where P is 0."""
    terms = probabilities * (logprobs - mixture)
    return terms.masked_fill(logprobs == NEGATIVE_INFINITY, 0.0) if _may_hold_masked(logprobs) else terms


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _as_vector(value: float | Tensor, like: Tensor) -> Tensor:
    """A (batch,) tensor of a parameter, in the dtype and on the device of `like`, whose first axis is the batch."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(like.shape[0])


def _per_row(value: float | Tensor, like: Tensor) -> Tensor:
    """A (batch, 1) tensor of a parameter, to multiply (batch, vocab) with."""
    return _as_vector(value, like).unsqueeze(-1)
