"""One step of steered decoding: logits under each context to the distribution of the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sda_engine.steering.mathematics import LOG_2, apply_plausibility, js_divergence, steer
from sda_engine.steering.path import divergence_from_base, furthest_position, path_logprobs
from sda_engine.steering.precision import as_vector, at_least_float32, in_widest
from sda_engine.steering.temperature import (
    TemperatureSchedule,
    TemperatureSignals,
    apply_temperature,
    checked_temperature,
    constant_schedule,
    divergence_schedule,
)


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
        position: (batch,), in [0, 1]: how far the step went on the path from the base distribution (0) to the steered
            one (1); None where there is no budget.
        avoided_logprobs: (batch, vocab), nats, normalised; None where nothing is avoided.
        spent: (batch,), nats: how far the distribution went from the base one, KL(P || P1); None likewise.
    """

    logprobs: Tensor
    steered_logprobs: Tensor
    base_logprobs: Tensor
    instructed_logprobs: Tensor
    divergence: Tensor
    temperature: Tensor
    position: Tensor | None = None
    spent: Tensor | None = None
    avoided_logprobs: Tensor | None = None


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
    budget: float | Tensor | None = None,
    quiet_divergence: float | Tensor = 0.0,
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
        budget: nats, at least 0; float or (batch,): the step goes no further from the base distribution than that, see
            `sda_engine.steering.path`, and its temperature no further from T0. 0 is the base distribution at T0.
            None, the paper: no limit.
        quiet_divergence: at least 0, nats; float or (batch,): with a budget, nothing is spent where contexts diverge
            less than that.

    Raises:
        ConfigError: a schedule of the user's returned no temperature.
    """
    base = torch.log_softmax(at_least_float32(base_logits), dim=-1)
    # a mixture of several contexts comes in float64; what is reported stays in one precision
    instructed = base if instructed_logits is None else torch.log_softmax(instructed_logits.to(base.dtype), dim=-1)
    avoided = None if avoided_logits is None else torch.log_softmax(at_least_float32(avoided_logits), dim=-1)
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
    position = spent = None
    if budget is not None:
        unsteered = torch.log_softmax(start, dim=-1)
        allowed = as_vector(budget, unsteered).masked_fill(divergence < as_vector(quiet_divergence, divergence), 0.0)
        position = furthest_position(unsteered, steered, allowed)
        steered = path_logprobs(unsteered, steered, position)
        spent = divergence_from_base(steered, unsteered).float()
    signals = TemperatureSignals(
        divergence=divergence,
        critical=_differ_in_best(base, other, schedule),
        temperature=as_vector(temperature, divergence),
        sensitivity=as_vector(sensitivity, divergence),
        min_temperature=as_vector(min_temperature, divergence),
        critical_divergence=as_vector(critical_divergence, divergence),
        in_category=_best_is_one_of(steered, critical_tokens),
    )
    used = checked_temperature(schedule(signals), schedule, divergence)
    if position is not None:
        used = torch.lerp(signals.temperature, used, position.to(used.dtype))  # T0 where nothing is steered
    logprobs = apply_temperature(steered, used.to(steered.dtype))
    kept = as_vector(strength, divergence) == 0  # (batch,): where the instructed distribution is what there is
    kept &= as_vector(plausibility, divergence) == 0
    if avoided is not None:
        kept &= as_vector(avoid_strength, divergence) == 0
    reported = torch.where(kept.unsqueeze(-1), instructed.float(), steered.float())  # to the bit, which float64 is not
    if position is not None:
        reported = _where_it_went(position, base, reported, steered)
        position = position.float()
    return SteeredStep(logprobs.float(), reported, base, instructed, divergence, used, position, spent, avoided)


def _where_it_went(position: Tensor, base: Tensor, full: Tensor, steered: Tensor) -> Tensor:
    """(batch, vocab): the distribution at each row's place of the path; base and full steering to the bit."""
    s = position.unsqueeze(-1)
    return torch.where(s <= 0, base.float(), torch.where(s >= 1, full, steered.float()))


def _differ_in_best(base: Tensor, other: Tensor, schedule: TemperatureSchedule) -> Tensor:
    """(batch,) bool: whether the most likely tokens differ; not looked up for the schedules that do not ask."""
    if schedule in (divergence_schedule, constant_schedule):
        return torch.zeros(base.shape[0], dtype=torch.bool, device=base.device)
    return base.argmax(dim=-1) != other.argmax(dim=-1)


def _best_is_one_of(logprobs: Tensor, tokens: Tensor | None) -> Tensor:
    """(batch,) bool: whether the most likely token is one of some, given as a (vocab,) bool mask."""
    if tokens is None:
        return torch.zeros(logprobs.shape[0], dtype=torch.bool, device=logprobs.device)
    return tokens[logprobs.argmax(dim=-1)]
