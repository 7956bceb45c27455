"""What one answer wants of a steering step, and what came of it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sda_engine.config import Sampling, Steering
from sda_engine.prompts import BASE
from sda_engine.steering import TEMPERATURE_SCHEDULES, TemperatureSchedule

SHOWN = 3  # most likely tokens that a trace shows of each distribution

Likely = Sequence[tuple[int, float]]
"""Token ids with their log-probabilities, nats, the most likely one first; masked ones are left out."""


@dataclass(frozen=True)
class Wanted:
    """What one answer wants of its next step.

    Attributes:
        logits: row -> (vocab,), after the mask of a constraint, the base row first.
        strength: of steering, now.
        avoid_strength: of the step away from the avoided row, now.
        uniform: the random number in [0, 1) to draw with.
        budget: nats that this token may spend; None for no limit.
        quiet_divergence: nats, see `steered_step`.
        critical_tokens: (vocab,) bool, see `steered_step`.
        masked: whether tokens of it are known to be masked.
        watched: whether a guard wants to know how much was left to chance.
        given: a token to be told of in place of one that is drawn.
        tried: how often it was drawn from too few tokens.
        shown: how many of the most likely tokens of base and instructed context are wanted, for a trace.
    """

    logits: Mapping[str, Tensor]
    steering: Steering
    sampling: Sampling
    strength: float
    avoid_strength: float
    uniform: float
    budget: float | None = None
    quiet_divergence: float = 0.0
    critical_tokens: Tensor | None = None
    masked: bool = False
    watched: bool = False
    given: int | None = None
    tried: int = 0
    shown: int = SHOWN

    @property
    def schedule(self) -> TemperatureSchedule:
        """What sets the temperature."""
        schedule = self.steering.temperature_schedule
        return TEMPERATURE_SCHEDULES[schedule] if isinstance(schedule, str) else schedule

    @property
    def greedy(self) -> bool:
        """Whether it is certain that the most likely token is taken."""
        return self.sampling.temperature == 0 and isinstance(self.steering.temperature_schedule, str)

    @property
    def unlimited(self) -> bool:
        """Whether top-p and min-p cut nothing off."""
        return self.sampling.top_p in (None, 1) and not self.sampling.min_p

    @property
    def careful(self) -> bool:
        """Whether masked tokens are to be looked for: a schedule of the user's is to see no NaN that is not there."""
        return self.masked or not isinstance(self.steering.temperature_schedule, str)

    @property
    def kind(self) -> Hashable:
        """The same for all that can be steered together."""
        return (
            tuple(self.logits),
            self.logits[BASE].dtype,
            id(self.schedule),
            self.critical_tokens is None,
            self.budget is None,
            self.greedy,
            self.watched,
            self.masked,
            self.steering.plausibility > 0,
            self.sampling.top_k is None,
            self.unlimited,
            self.tried,
            self.shown,
        )


@dataclass(frozen=True)
class Chosen:
    """What came of a step.

    Attributes:
        token_id: the token that was drawn, or given.
        broken: whether there was no distribution to draw from; then nothing else holds.
        divergence, temperature, position, spent: see `SteeredStep`.
        logprob: the token's log-probability in the steered distribution, before the temperature, nats.
        row_logprobs: row -> the same in the context of that row.
        base: the most likely tokens of the base context.
        instructed: those of the instructed one, where there is one, else of the base context.
        steered: those of the steered distribution before the temperature, as many as the request asked for.
        masked: whether tokens were known to be masked, or turned out to be.
        choices: how many tokens of a watched answer were not masked; None where no mask was known of.
        entropies: nats, of the distribution that was drawn from and of the base context; None where the token was not
            drawn, or nobody watches.
    """

    token_id: int
    broken: bool
    divergence: float
    temperature: float
    position: float | None
    spent: float | None
    logprob: float
    row_logprobs: Mapping[str, float]
    base: Likely
    instructed: Likely
    steered: Likely
    masked: bool
    choices: int | None = None
    entropies: tuple[float, float] | None = None
