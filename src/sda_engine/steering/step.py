"""One step of steered decoding: logits under each context to the distribution of the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sda_engine.forks import lazy_property
from sda_engine.steering.mathematics import LOG_2, apply_plausibility, divergence_of, entropy, steer
from sda_engine.steering.path import on_path, walk
from sda_engine.steering.precision import as_vector, at_least_float32, in_widest, per_row, row_sums
from sda_engine.steering.sampling import best_token
from sda_engine.steering.temperature import (
    TemperatureSchedule,
    TemperatureSignals,
    apply_temperature,
    checked_temperature,
    constant_schedule,
    divergence_schedule,
)


@dataclass(frozen=True)
class Context:
    """What the model says of the next token in one context.

    Attributes:
        logits: (batch, vocab), float32 at least.
        log_total: (batch, 1), nats: what the log-probabilities lack to them; NaN where there is no distribution.
    """

    logits: Tensor
    log_total: Tensor

    @lazy_property
    def logprobs(self) -> Tensor:
        """(batch, vocab), nats, normalised."""
        return torch.log_softmax(self.logits, dim=-1)

    @property
    def entropy(self) -> Tensor:
        """(batch,), nats."""
        return entropy(self.logits - self.log_total)

    def logprobs_of(self, token_ids: Tensor) -> Tensor:
        """Those of some tokens of each row alone, (batch, tokens) for token ids of that shape."""
        return self.logits.gather(-1, token_ids) - self.log_total


@dataclass(frozen=True)
class SteeredStep:
    """The steered distribution of the next token, one row per request.

    What takes a pass over the vocabulary and is not always asked for is computed where it is asked for.

    Attributes:
        steered: (batch, vocab): the steered distribution before the temperature, not normalised, in the widest type.
        base: the base context.
        instructed: the instructed one; the base context where there is no instruction.
        divergence: (batch,), nats, 0..ln 2.
        temperature: (batch,).
        changes: numbers, float or (batch,) each, of which one at least is above 0 where steering changes anything.
        position: (batch,), in [0, 1]: how far the step went on the path from the base distribution (0) to the steered
            one (1); None where there is no budget.
        avoided: the avoided context; None where nothing is avoided.
        spent: (batch,), nats: how far the distribution went from the base one, KL(P || P1); None likewise.
    """

    steered: Tensor
    base: Context
    instructed: Context
    divergence: Tensor
    temperature: Tensor
    changes: tuple[float | Tensor, ...]
    position: Tensor | None = None
    spent: Tensor | None = None
    avoided: Context | None = None

    @lazy_property
    def logprobs(self) -> Tensor:
        """(batch, vocab), nats, normalised: the distribution to sample from.

        A greedy row (temperature 0) holds the limit: 0 at the argmax and -inf elsewhere.
        """
        return apply_temperature(self.steered, self.temperature.to(self.steered.dtype)).float()

    @lazy_property
    def steered_logprobs(self) -> Tensor:
        """(batch, vocab), nats, normalised: the same before the temperature.

        With strength 0, and nothing avoided or dropped, it is the instructed distribution to the bit.
        """
        steered = torch.log_softmax(self.steered, dim=-1).float()
        unchanged = torch.stack([per_row(change, self.divergence) == 0 for change in self.changes]).all(dim=0)
        if self.position is None:
            return torch.where(unchanged, self.instructed_logprobs.float(), steered)
        s = self.position.unsqueeze(-1)
        whole = torch.where(unchanged & (s >= 1), self.instructed_logprobs.float(), steered)
        return torch.where(s <= 0, self.base_logprobs.float(), whole)

    @property
    def base_logprobs(self) -> Tensor:
        """(batch, vocab), nats, normalised."""
        return self.base.logprobs

    @property
    def instructed_logprobs(self) -> Tensor:
        """(batch, vocab), nats, normalised."""
        return self.instructed.logprobs

    @property
    def avoided_logprobs(self) -> Tensor | None:
        """(batch, vocab), nats, normalised; None where nothing is avoided."""
        return None if self.avoided is None else self.avoided.logprobs

    @lazy_property
    def best(self) -> Tensor:
        """(batch, 1): the largest value of `steered`; NaN in a row with NaN."""
        return self.steered.amax(dim=-1, keepdim=True)

    @lazy_property
    def centred(self) -> Tensor:
        """(batch, vocab) float32: `steered` with 0 for the most likely token, to make probabilities of."""
        return (self.steered - self.best).float()

    @lazy_property
    def log_total(self) -> Tensor:
        """(batch, 1): what `steered` has in excess of log-probabilities, nats; NaN where there is no distribution."""
        return self.best + row_sums(self.centred.exp()).log().unsqueeze(-1)

    @lazy_property
    def is_greedy(self) -> Tensor:
        """(batch,) bool: whether the temperature is 0."""
        return self.temperature == 0

    @lazy_property
    def _divisor(self) -> Tensor:
        """(batch, 1): the temperature, but for greedy rows 1, in the widest type."""
        return torch.where(self.is_greedy, 1.0, self.temperature).unsqueeze(-1).to(self.steered.dtype)

    @lazy_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        """(batch, vocab): `centred` at the temperature; and (batch, 1), what it has in excess. Greedy rows are at 1."""
        scaled = self.centred / self._divisor.float()
        return scaled, row_sums(scaled.exp()).log().unsqueeze(-1)

    def drawn_logprobs(self, values: Tensor) -> Tensor:
        """The log-probabilities, at the temperature, of tokens by their values in `steered`, (batch, tokens).

        A greedy row (temperature 0) has those of temperature 1.
        """
        return (values - self.best) / self._divisor - self._scaled[1]

    @property
    def drawn_entropy(self) -> Tensor:
        """(batch,), nats: that of the distribution to sample from; of a greedy row, that at temperature 1."""
        scaled, log_total = self._scaled
        return entropy(scaled - log_total)


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
    masked: bool = True,
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
        critical_tokens: (vocab,) or (batch, vocab) bool: tokens of the categories that the user named; None for none.
        budget: nats, at least 0; float or (batch,): the step goes no further from the base distribution than that, see
            `sda_engine.steering.path`, and its temperature no further from T0. 0 is the base distribution at T0.
            None, the paper: no limit.
        quiet_divergence: at least 0, nats; float or (batch,): with a budget, nothing is spent where contexts diverge
            less than that.
        masked: whether a token may be masked in any of the contexts, or have no probability that float32 can tell from
            0. Where none has, looking for it is saved; a row in which one has it all the same has NaN for `divergence`
            or `log_total`, unless the step is right.

    Raises:
        ConfigError: a schedule of the user's returned no temperature.
    """
    base, base_p, base_logprobs = _context(base_logits)
    other_p, other_logprobs = base_p, base_logprobs
    instructed, avoided = base, None
    if avoided_logits is not None:
        avoided, other_p, other_logprobs = _context(avoided_logits)
    if instructed_logits is not None:
        # a mixture of several contexts may come in float64; what is reported stays in one precision
        instructed, other_p, other_logprobs = _context(instructed_logits.to(base.logits.dtype))
    if other_p is base_p:
        divergence = base.log_total.squeeze(-1) * 0  # of a row with NaN it is NaN
    else:
        divergence = divergence_of(base_p, base_logprobs, other_p, other_logprobs, masked=masked)
    # steering multiplies rounding errors, so it starts from the logits again, in float64; the constants by which logits
    # and log-probabilities differ change no distribution
    start = in_widest(base_logits)
    steered = steer(
        start,
        start if instructed_logits is None else in_widest(instructed_logits),
        strength,
        avoided_logprobs=None if avoided_logits is None else in_widest(avoided_logits),
        avoid_strength=avoid_strength,
        masked=masked,
    )
    if not isinstance(plausibility, (int, float)) or plausibility > 0:
        steered = apply_plausibility(steered, instructed.logits, plausibility)
    changes = (strength, plausibility) if avoided is None else (strength, plausibility, avoid_strength)
    position = spent = None
    if budget is not None:
        allowed = as_vector(budget, start).masked_fill(divergence < as_vector(quiet_divergence, divergence), 0.0)
        position, spent = walk(
            start, steered, allowed, log_total=base.log_total.squeeze(-1).to(start.dtype), masked=masked
        )
        steered = on_path(start, steered, position, masked=masked)
        position, spent = position.float(), spent.float()
    signals = TemperatureSignals(
        divergence=divergence,
        critical=_differ_in_best(base_logprobs, other_logprobs, schedule),
        temperature=as_vector(temperature, divergence),
        sensitivity=as_vector(sensitivity, divergence),
        min_temperature=as_vector(min_temperature, divergence),
        critical_divergence=as_vector(critical_divergence, divergence),
        in_category=_best_is_one_of(steered, critical_tokens),
    )
    used = checked_temperature(schedule(signals), schedule, divergence)
    if position is not None:
        used = torch.lerp(signals.temperature, used, position.to(used.dtype))  # T0 where nothing is steered
    return SteeredStep(steered, base, instructed, divergence, used, changes, position, spent, avoided)


def _context(logits: Tensor) -> tuple[Context, Tensor, Tensor]:
    """One context, its probabilities and its log-probabilities, (batch, vocab) each.

    They come from one exponential, where `log_softmax` and `exp` take two. So they may be off in their last digits.
    """
    logits = at_least_float32(logits)
    probabilities = torch.softmax(logits, dim=-1)
    log_total = logits.amax(dim=-1, keepdim=True) - probabilities.amax(dim=-1, keepdim=True).log()
    return Context(logits, log_total), probabilities, logits - log_total


def _differ_in_best(base: Tensor, other: Tensor, schedule: TemperatureSchedule) -> Tensor:
    """(batch,) bool: whether the most likely tokens differ; not looked up for the schedules that do not ask."""
    if schedule in (divergence_schedule, constant_schedule):
        return torch.zeros(base.shape[0], dtype=torch.bool, device=base.device)
    return best_token(base) != best_token(other)


def _best_is_one_of(logprobs: Tensor, tokens: Tensor | None) -> Tensor:
    """(batch,) bool: whether the most likely token is one of some, given as a (vocab,) or (batch, vocab) bool mask."""
    if tokens is None:
        return torch.zeros(logprobs.shape[0], dtype=torch.bool, device=logprobs.device)
    return tokens.expand(logprobs.shape).gather(-1, best_token(logprobs).unsqueeze(-1)).squeeze(-1)
