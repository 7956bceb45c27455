"""The temperature of the next token: the paper's schedule (eq. 7), others, and a distribution at a temperature."""

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
from sda_engine.steering.mathematics import NEGATIVE_INFINITY
from sda_engine.steering.precision import as_vector, at_least_float32


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
    divergence = at_least_float32(divergence)
    start = as_vector(temperature, divergence)
    cooled = start * torch.exp2(-divergence / as_vector(sensitivity, divergence))
    return torch.where(start == 0, start, torch.maximum(cooled, as_vector(min_temperature, divergence)))


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


def checked_temperature(returned: object, schedule: TemperatureSchedule, divergence: Tensor) -> Tensor:
    """(batch,): what a schedule returned, in the dtype and on the device of the divergence.

    Raises:
        ConfigError: it is neither a number nor one for each row, or not all of them are finite and at least 0.
    """
    if isinstance(returned, Tensor) and schedule in _OURS:
        return returned
    per_row = isinstance(returned, Tensor) and returned.shape == divergence.shape and not returned.is_complex()
    used = as_vector(cast(Tensor, returned) if per_row else as_number(returned), divergence)
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


def _only_the_best(logprobs: Tensor) -> Tensor:
    """0 at the argmax and -inf elsewhere; NaN at the argmax of a row with NaN, or with nothing but -inf."""
    most = logprobs.amax(dim=-1, keepdim=True)
    best = logprobs.argmax(dim=-1, keepdim=True)
    return torch.full_like(logprobs, NEGATIVE_INFINITY).scatter(-1, best, most - most)
