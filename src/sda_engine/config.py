"""Request settings: how to steer (Steering) and how to sample (Sampling). Frozen, and validated once."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, Self, get_args

from pydantic import Field, SkipValidation, ValidationInfo, field_validator, model_validator

from sda_engine.alignment import Alignment
from sda_engine.choosing import KEPT, KeepRule, Revision
from sda_engine.errors import ConfigError
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import Evaluator, evaluator_identity, evaluator_name
from sda_engine.settings import Settings, shown
from sda_engine.steering import (
    AMPLIFICATION_CURVES,
    LOG_2,
    TEMPERATURE_SCHEDULES,
    AmplificationCurve,
    TemperatureSchedule,
    amplification_factor,
)

Placement = Literal["after_query", "system"]
EvaluatorFallback = Literal["raise", "instruct_only", "fixed"]
TokenCategory = Literal["numbers", "negations", "named_entities"]
GuardAction = Literal["off", "report", "relax"]
Policy = Literal["auto", "paper", "budget", "revise"]
Region = Literal["thought", "text", "call", "structured"]
"""A part of an answer: what the model thinks, says or calls tools with; JSON by a schema stands in place of text."""
Scope = Literal["answer", "text", "thought", "calls", "all"]

_BLIND_SCHEDULES = ("divergence", "constant")  # they treat all tokens alike, critical or not
_BY_SCORE = ("evaluator", "amplification_curve", "accept_score", "on_evaluator_error")
_AUTO: Mapping[bool, Policy] = {True: "revise", False: "budget"}  # by whether an answer is wanted as a whole
_NAMED: Mapping[str, Collection[str]] = {  # settings that take a name or a callable, and the names
    "amplification_curve": AMPLIFICATION_CURVES,
    "temperature_schedule": TEMPERATURE_SCHEDULES,
    "keep": KEPT,
}
_BY_POLICY = {  # the one policy that looks at it
    **dict.fromkeys(("budget", "reserve", "quiet_divergence"), "budget"),
    **dict.fromkeys(("revisions", "keep", "chooser"), "revise"),
}
SCOPES: Mapping[Scope, frozenset[Region]] = {  # where steering acts
    "answer": frozenset({"thought", "text", "structured"}),
    "text": frozenset({"text"}),
    "thought": frozenset({"thought"}),
    "calls": frozenset({"call", "structured"}),
    "all": frozenset(get_args(Region)),
}
_BY_ALIGNMENT = (*_BY_POLICY, "scope", "gain", "amplification", *_BY_SCORE, "avoid_strength", "placement")


class NoEffectWarning(UserWarning):
    """A setting that was given, is legal, and changes nothing in this request."""


class Steering(Settings):
    """How strongly, and in which manner, the alignment instruction steers the choice of tokens.

    The strength of steering is gain * amplification. Defaults are the published settings, but for the score: a
    fixed score of 50 stands in for the external evaluator, so that no request needs a second response.

    A setting that another one given with it robs of any effect is refused, e.g. an evaluator beside a fixed
    amplification; `replace` takes the new one of two such in place of the old one.

    Attributes:
        policy: how the distributions of a request become an answer. "auto": "revise" for an answer that is asked for as
            a whole, "budget" for one that streams. "paper": exactly the published formulas. "budget": the
            same, but the whole answer may go no more than `budget` nats from the base distribution; then the base
            context decides alone. "revise": the base response comes first, is decoded again with several strengths and
            budgets at once, and the best of these revisions that keeps what must stay is the answer; where there is
            none, the base response. See docs/concepts.md.
        scope: where in an answer steering acts; elsewhere the base context decides alone, and nothing is spent of a
            budget. "answer": all but tool calls; "text": what is said; "thought": what is thought; "calls": tool calls,
            and JSON by a schema; "all": everything. See docs/concepts.md.
        gain: k, the constant multiplier.
        amplification: a fixed amplification factor that replaces evaluator and curve; None means from the score.
        evaluator: rates the base response.
        avoid_strength: weight of the step away from `Alignment.avoid`; None means gain * amplification.
        amplification_curve: score -> amplification factor; a name or a callable.
        temperature_sensitivity: sigma of the divergence schedule, nats.
        min_temperature: T_min of the divergence schedule.
        temperature_schedule: "divergence" (paper, eq. 7), "constant", "critical_tokens" (eq. 7 only at critical
            tokens) or a callable TemperatureSignals -> temperature.
        critical_divergence: a token is critical where the instruction changes the most likely one and the divergence
            is at least this, nats; 0 means wherever it changes. With SmolLM2-135M the default is exceeded at half of
            the places where it changes, and at one in twenty of the others.
        critical_categories: a token is critical, too, where the most likely one after steering is of one of these
            categories: "numbers", "negations", "named_entities". A rule of thumb for English, by the text of the token
            alone, see `sda_engine.tokens.categories`.
        guard: what to do where the answer shows a failure sign of strong steering, a loop or a collapsed distribution
            (see `sda_engine.decoding.guards`): "off", nothing; "report", note it in `Trace.warnings`; "relax", note it,
            and halve strength and avoid_strength from the next token on, at every further sign again.
        plausibility: keep only tokens with P2 >= plausibility * max P2. 0, the default, is the paper; more than 0
            is contrastive decoding's constraint (Li et al. 2023, arXiv 2210.15097).
        budget: nats that an answer may spend under the policy "budget": the sum of KL(P || P1) over its tokens.
        reserve: nats that such an answer may spend more when it would end for the first time.
        quiet_divergence: nats, 0..ln 2: such an answer spends nothing of `budget` where contexts diverge less.
        revisions: how the policy "revise" decodes a base response again; more of them find more, and take longer. None
            means `choosing.REVISIONS` where it says something that must stay, and `choosing.FREE_REVISIONS` where not.
        keep: what a revision must keep of the base response: "values" (numbers, times, names and short phrases that it
            took from the chat word for word, see `sda_engine.choosing.keeping`), "nothing", or a callable KeepCheck ->
            bool.
        chooser: rates each of the revisions, and the base response where `evaluator` is another one; None means the
            contrastive score, which asks nobody.
        placement: where the instruction goes: "after_query" (paper: the last user turn becomes query, newline,
            instruction) or "system".
        accept_score: a base response that scores at least this is returned as it is; None means never.
        on_evaluator_error: "raise", or go on with "instruct_only" (amplification 0) or "fixed" (score 50); the
            fallback taken is recorded in the result. Where the chooser fails, both mean the contrastive score.
    """

    policy: Policy = Field(default="auto", description="'auto', 'paper', 'budget' or 'revise'")
    scope: Scope = Field(default="answer", description=f"one of {', '.join(SCOPES)}")
    gain: float = Field(default=2.0, ge=0, description="a number of at least 0")
    amplification: float | None = Field(default=None, ge=0, le=1, description="a number from 0 to 1, or None")
    evaluator: SkipValidation[Evaluator] = Field(
        default_factory=FixedScore, description="an evaluator with needs_response, evaluate and aevaluate"
    )
    avoid_strength: float | None = Field(default=None, ge=0, description="a number of at least 0, or None")
    amplification_curve: str | AmplificationCurve = Field(
        default="sigmoid", description=f"one of {', '.join(AMPLIFICATION_CURVES)}, or a callable"
    )
    temperature_sensitivity: float = Field(default=2 * math.log(2), gt=0, description="a number above 0, in nats")
    min_temperature: float = Field(default=0.0, ge=0, description="a number of at least 0")
    temperature_schedule: str | TemperatureSchedule = Field(
        default="divergence", description=f"one of {', '.join(TEMPERATURE_SCHEDULES)}, or a callable"
    )
    critical_divergence: float = Field(default=0.05, ge=0, le=LOG_2, description="a number from 0 to ln 2, in nats")
    critical_categories: tuple[TokenCategory, ...] = Field(
        default=(), description=f"one of {', '.join(get_args(TokenCategory))}, or a list of them"
    )
    guard: GuardAction = Field(default="off", description="'off', 'report' or 'relax'")
    plausibility: float = Field(default=0.0, ge=0, le=1, description="a number from 0 to 1")
    budget: float = Field(default=12.0, ge=0, description="a number of at least 0, in nats")
    reserve: float = Field(default=12.0, ge=0, description="a number of at least 0, in nats")
    quiet_divergence: float = Field(default=0.1, ge=0, le=LOG_2, description="a number from 0 to ln 2, in nats")
    revisions: tuple[Revision, ...] | None = Field(
        default=None, min_length=1, description="a Revision, a list of at least one, or None"
    )
    keep: str | KeepRule = Field(default="values", description=f"one of {', '.join(KEPT)}, or a callable")
    chooser: SkipValidation[Evaluator | None] = Field(
        default=None, description="an evaluator that needs a response, or None"
    )
    placement: Placement = Field(default="after_query", description="'after_query' or 'system'")
    accept_score: float | None = Field(
        default=None, gt=0, le=100, description="a number above 0 and at most 100, or None"
    )
    on_evaluator_error: EvaluatorFallback = Field(default="raise", description="'raise', 'instruct_only' or 'fixed'")

    @field_validator("evaluator")
    @classmethod
    def _rates(cls, evaluator: object) -> object:
        if isinstance(evaluator, type) or not isinstance(evaluator, Evaluator):
            raise ValueError("not an evaluator")
        return evaluator

    @field_validator("chooser")
    @classmethod
    def _looks_at_responses(cls, chooser: object) -> object:
        if chooser is None:
            return None
        if isinstance(chooser, type) or not isinstance(chooser, Evaluator) or not chooser.needs_response:
            raise ValueError("not an evaluator of responses")
        return chooser

    @field_validator(*_NAMED)
    @classmethod
    def _is_named_or_callable(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and value not in _NAMED[str(info.field_name)]:
            raise ValueError("nothing has that name")
        return value

    @field_validator("critical_categories", "revisions", mode="before")
    @classmethod
    def _as_tuple(cls, several: object) -> object:
        if isinstance(several, (str, Revision)):
            return (several,)
        return tuple(several) if isinstance(several, list) else several

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        chosen = self._chosen()
        for name, reason, remedy in self._useless_together():
            if name in chosen:
                raise ConfigError(
                    f"Steering.{name}={shown(chosen[name])} would change nothing: {reason}. {remedy}.", field=name
                )
        return self

    def _chosen(self) -> dict[str, object]:
        """The settings that were given and say something; None and () say that there is none."""
        return {name: value for name, value in self.given().items() if value is not None and value != ()}

    def _useless_together(self) -> Iterator[tuple[str, str, str]]:
        """Settings that these leave no effect, whatever is answered: name, reason, remedy."""
        for name, policy in _BY_POLICY.items():
            if self.policy not in ("auto", policy):
                yield name, f"policy={shown(self.policy)} does not look at it", f"Set policy={shown(policy)}"
        schedule = f"temperature_schedule={shown(self.temperature_schedule)}"
        if self.temperature_schedule in _BLIND_SCHEDULES:
            why = f"{schedule} treats all tokens alike"
            other = "Set temperature_schedule='critical_tokens', or a callable that looks at "
            yield "critical_categories", why, f"{other}`in_category`"
            yield "critical_divergence", why, f"{other}`critical_divergence`"
        if self.temperature_schedule == "constant":
            for name in ("temperature_sensitivity", "min_temperature"):
                yield name, f"{schedule} leaves the temperature as it is", "Set temperature_schedule='divergence'"
        if self.amplification is not None:
            for name in _BY_SCORE:
                if name == "on_evaluator_error" and self.chooser is not None:
                    continue
                yield name, f"amplification={self.amplification} is fixed, so nothing is rated", "Leave out one of them"
        if "evaluator" in self.given():
            yield from self._useless_with(self.evaluator)

    def _useless_with(self, evaluator: Evaluator) -> Iterator[tuple[str, str, str]]:
        name = evaluator_name(evaluator)
        if not evaluator.needs_response:
            why = f"{name} rates no base response that could be accepted"
            yield "accept_score", why, "Give another evaluator, or leave it out"
        if isinstance(evaluator, FixedScore) and self.chooser is None:
            yield "on_evaluator_error", f"{name} never fails", "Give another evaluator, or leave it out"

    def replace(self, **changes: object) -> Self:
        """A copy with some settings changed. Those that the changes leave no effect go back to their defaults."""
        stale: set[str] = set()
        if changes.get("policy") is not None and changes["policy"] != "auto":
            stale.update(name for name, policy in _BY_POLICY.items() if policy != changes["policy"])
        if changes.get("amplification") is not None:
            stale.update(_BY_SCORE)
        elif changes.get("evaluator") is not None:
            stale.add("amplification")
            if isinstance(evaluator := changes["evaluator"], Evaluator):
                stale.update(name for name, _, _ in self._useless_with(evaluator))
        kept = {name: value for name, value in self.given().items() if name not in stale}
        return self.of_values({**kept, **changes})

    def policy_for(self, *, whole: bool) -> Policy:
        """The policy; in place of "auto", "revise" where an answer is wanted as a whole, else "budget"."""
        return _AUTO[whole] if self.policy == "auto" else self.policy

    def acts_in(self, region: Region) -> bool:
        """Whether steering acts in a part of an answer."""
        return region in SCOPES[self.scope]

    def without(self, names: Collection[str]) -> Self:
        """A copy with some settings back at their defaults."""
        return self.of_values({name: value for name, value in self.given().items() if name not in names})

    def fitting(self, alignment: Alignment | None) -> Self:
        """A copy without the settings that change nothing in an answer with this alignment."""
        return self.without(self.idle_for(alignment))

    def idle_for(self, alignment: Alignment | None) -> dict[str, str]:
        """The given settings that change nothing in an answer with this alignment, and why."""
        idle: dict[str, str] = {}
        if alignment is None:
            idle |= dict.fromkeys(_BY_ALIGNMENT, "there is no alignment to steer by")
            if isinstance(self.temperature_schedule, str):
                why = "there is no alignment, so contexts cannot diverge"
                idle |= {"temperature_sensitivity": why, "critical_divergence": why}
        else:
            if "evaluator" not in self.given() and self.amplification is None:
                idle |= {name: reason for name, reason, _ in self._useless_with(self.evaluator)}
            if alignment.avoid is None and not alignment.blank_picture:
                idle["avoid_strength"] = "the alignment has no text to avoid"
            elif not alignment.instructions and self.avoid_strength is not None:
                why = "the alignment has no instruction, and avoid_strength says how far to stay away"
                idle |= dict.fromkeys(("gain", "amplification", "amplification_curve"), why)
        return {name: idle[name] for name in self._chosen() if name in idle}

    def amplification_for(self, score: float) -> float:
        """The amplification factor that a score means under these settings, in [0, 1]."""
        if self.amplification is not None:
            return self.amplification
        return amplification_factor(score, self.amplification_curve)

    def describe(self) -> dict[str, object]:
        """These settings as plain JSON, complete enough to key a cache."""
        plain = dict(self) | {
            "evaluator": evaluator_identity(self.evaluator),
            "chooser": None if self.chooser is None else evaluator_identity(self.chooser),
            "critical_categories": list(self.critical_categories),
            "revisions": None if self.revisions is None else [revision.model_dump() for revision in self.revisions],
        }
        return {name: _callable_identity(value) if callable(value) else value for name, value in plain.items()}


class Sampling(Settings):
    """How tokens are drawn from the steered distribution, and when the answer ends.

    Attributes:
        temperature: T0 of the temperature schedule; 0 is greedy.
        top_p: keep the smallest set of most likely tokens whose probabilities reach top_p; None means all.
        top_k: keep the top_k most likely tokens; None means all.
        min_p: keep tokens with at least min_p times the probability of the most likely one; None means all.
        max_new_tokens: the answer ends after this many tokens, a thought included, or when the context window is full.
        max_reasoning_tokens: a thought that has this many tokens and goes on is closed: its closing marker is forced,
            and the answer follows. 0 closes it where it begins; None means no limit but `max_new_tokens`. Several
            thoughts in an answer count together. `Trace.warnings` tells of a thought that was cut.
        stop: the answer ends before the first of these strings. They are not looked for in tool calls, thoughts and
            JSON that fits a schema; a text by a regular expression or grammar ends there only where it is whole.
        seed: the same seed repeats the same answer; None draws a fresh one for each request.
        logprobs: how many of the steered distribution's top log-probabilities to return per token; None means
            none at all, 0 only that of the chosen token.
    """

    temperature: float = Field(default=0.6, ge=0, description="a number of at least 0 (0 is greedy)")
    top_p: float | None = Field(default=0.95, gt=0, le=1, description="a number above 0 and at most 1, or None")
    top_k: int | None = Field(default=None, ge=1, description="a whole number of at least 1, or None")
    min_p: float | None = Field(default=None, ge=0, le=1, description="a number from 0 to 1, or None")
    max_new_tokens: int = Field(default=512, ge=1, description="a whole number of at least 1")
    max_reasoning_tokens: int | None = Field(default=None, ge=0, description="a whole number of at least 0, or None")
    stop: tuple[str, ...] = Field(default=(), description="a string, or a list of strings, none of them empty")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="a whole number from 0 to 2**63 - 1, or None")
    logprobs: int | None = Field(default=None, ge=0, le=100, description="a whole number from 0 to 100, or None")

    @field_validator("stop", mode="before")
    @classmethod
    def _as_tuple(cls, stop: object) -> object:
        if isinstance(stop, str):
            return (stop,)
        return tuple(stop) if isinstance(stop, list) else stop

    @field_validator("stop")
    @classmethod
    def _no_empty_string(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every answer at once")
        return stop


def _callable_identity(value: object) -> str:
    """A name for a module's function; for lambdas, local functions and objects one that no other shares."""
    name = getattr(value, "__qualname__", "<object>")
    return repr(value) if "<" in name else f"{getattr(value, '__module__', '?')}.{name}"
