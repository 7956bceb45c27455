"""The rows of one request while they are decoded: logits of all rows in, one token for all rows out.

It is longer than other files, since all that is known of an answer between two tokens is one state; what can be told
apart from it stands in files of its own: steps, regions, guards, thoughts, parsing and recording.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from sda_engine.config import SCOPES, Region, Sampling, Steering
from sda_engine.decoding.answer_parser import AnswerParser
from sda_engine.decoding.detokenizer import Detokenizer, StopChecker
from sda_engine.decoding.guards import Guard
from sda_engine.decoding.mixing import mix_instructed, mixed_rows
from sda_engine.decoding.recorder import Recorder
from sda_engine.decoding.thought_limit import ThoughtLimit
from sda_engine.decoding.wanted import SHOWN, Chosen, Wanted
from sda_engine.errors import NumericalError
from sda_engine.output import InvalidToolCall, TokenConstraint, ToolCall
from sda_engine.prompts import BASE
from sda_engine.results import Delta, FinishReason, GeneratedTokenLogprobs, TraceToken, TraceWarning
from sda_engine.steering import Budget, Purse, make_generator
from sda_engine.tokens import SafeTokenizer

_RELAXATION = 0.5  # what is left of the strength after a finding of the guard


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the tokens of one answer.

    Attributes:
        rows: names of the rows that decide, the base row first.
        weights: how much each instructed row counts, where there are several.
        masked: whether logits come with masked tokens, by a constraint that is kept elsewhere.
        traced: whether the most likely tokens of each context are wanted at every step.
        strength: gain * amplification.
        avoid_strength: weight of the step away from the avoided row.
        stop: strings that end the answer.
        text_form: what the text must look like; a stop string ends it only where it is whole by this. None where it
            may end anywhere.
        max_new_tokens: the answer ends after this many tokens.
        eos_token_ids: tokens that end the answer.
        constraint: what the answer must look like; a copy of it follows the answer.
        response_template: how to sort the answer into text, reasoning and tool calls; None for text alone.
        answer_prefix: what the prompt has already written of the answer.
        markers: special tokens that the response template looks for.
        thought_closing: the tokens that close a thought, where `Sampling.max_reasoning_tokens` limits it.
        must_call: whether the answer has to be a tool call.
        text_region: what the text of the answer counts as for `Steering.scope`.
        critical_tokens: (vocab,) bool: tokens at which the temperature schedule is to be careful; None for none.
        budget: how far the answer may go from the base distribution; None, the paper, for no limit.
    """

    rows: tuple[str, ...]
    strength: float
    avoid_strength: float
    steering: Steering
    sampling: Sampling
    stop: tuple[str, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    constraint: TokenConstraint | None = None
    text_form: TokenConstraint | None = None
    response_template: Mapping[str, object] | None = None
    answer_prefix: str = ""
    markers: frozenset[int] = frozenset()
    thought_closing: tuple[int, ...] = ()
    must_call: bool = False
    text_region: Region = "text"
    critical_tokens: Tensor | None = None
    budget: Budget | None = None
    weights: tuple[float, ...] = ()
    masked: bool = False
    traced: bool = True


class _Allowance(TypedDict):
    """What one token may spend, as `Wanted` has it."""

    budget: float | None
    quiet_divergence: float


@dataclass(frozen=True)
class DecodedToken:
    """One step's result: the token, what may be given out, whether the answer ends here, and what steering did."""

    token_id: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: tuple[GeneratedTokenLogprobs, ...]
    trace: tuple[TraceToken, ...]


@dataclass(frozen=True)
class DecodedText:
    """An answer: a whole one, or as far as it got.

    Attributes:
        finish_reason: why it ended; None for an answer that was broken off.
        row_logprobs: row -> log-probability of each chosen token in that row's context, nats; forced tokens
            left out, and a thought before the answer. INSTRUCTED means the mixture where several rows are instructed.
        answer_start: index of the first token behind such a thought; 0 where there is none.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    tokens: tuple[TraceToken, ...]
    logprobs: tuple[GeneratedTokenLogprobs, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    reasoning: str = ""
    warnings: tuple[TraceWarning, ...] = ()
    row_logprobs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    answer_start: int = 0


@dataclass(frozen=True)
class Choice:
    """A token that was chosen, and not appended yet.

    Attributes:
        chosen: what came of the step.
        purse: what the answer has left before it; None where there is no budget.
        spent: nats that it takes of it; None likewise.
    """

    chosen: Chosen
    purse: Purse | None = None
    spent: float | None = None


class RowGroup:
    """The state of one answer between two forward passes."""

    def __init__(self, settings: DecodeSettings, tokenizer: SafeTokenizer) -> None:
        self._settings = settings
        self._generator = make_generator(settings.sampling.seed)
        self._detokenizer = Detokenizer(partial(tokenizer.decode, keep=settings.markers))
        self._parser = AnswerParser(
            settings.response_template,
            settings.answer_prefix,
            StopChecker(settings.stop, settings.text_form.copy().is_whole_with if settings.text_form else None),
            call_end=tokenizer.answer_format.call_end.strip(),
            must_call=settings.must_call,
            text_region=settings.text_region,
        )
        self._recorder = Recorder(_with_special_tokens(tokenizer), settings.sampling.logprobs)
        self._constraint = settings.constraint.copy() if settings.constraint is not None else None
        most = settings.sampling.max_reasoning_tokens
        self._thoughts = None if most is None else ThoughtLimit(most, settings.thought_closing)
        self._guard = Guard() if settings.steering.guard != "off" else None
        self._relaxes = settings.steering.guard == "relax" and bool(settings.strength or settings.avoid_strength)
        self._relaxation = 1.0  # what a guard has left of the strength
        self._warnings: list[TraceWarning] = []
        self._critical_tokens = settings.critical_tokens
        self._scope = SCOPES[settings.steering.scope]
        leaves_scope = len(settings.rows) > 1 and not self._parser.regions <= self._scope
        budget = settings.budget or (Budget() if leaves_scope else None)
        self._purse = Purse(budget) if budget is not None else None
        self._uniform: float | None = None
        self._was_steered = True  # whether the last token is in the scope
        self._answer_start = 0
        self._masked = settings.masked or settings.constraint is not None
        self._token_ids: list[int] = []
        self._due: list[int] = []  # tokens that come next, in an answer whose tokens are chosen elsewhere
        self._row_logprobs: dict[str, list[float]] = {name: [] for name in mixed_rows(settings.rows)}
        self._answer = Delta()

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens of the answer so far."""
        return self._token_ids

    def advance(self, logits: Sequence[Tensor]) -> Generator[Sequence[Wanted], Sequence[Chosen], DecodedToken]:
        """Choose the next token and append it: `choose` and `accept` in one."""
        return self.accept((yield from self.choose(logits)))

    def choose(self, logits: Sequence[Tensor]) -> Generator[Sequence[Wanted], Sequence[Chosen], Choice]:
        """Choose the next token: yields what the step is to be, one of it, and is sent what came of it.

        It asks more than once where the answer would end and a reserve opens first, and where the constraint puts
        another token in place of the one that was drawn. Until a choice is accepted, the next one is made in its place,
        with the same random number.

        Args:
            logits: (vocab,) each, in the order of the settings' rows.

        Raises:
            NumericalError: there is no distribution to sample from.
            ConstraintError: the constraint allows nothing more.
        """
        if self._constraint is not None:
            logits = self._constraint.apply_mask(torch.stack(list(logits))).unbind()
        wanted = self._wanted(
            mix_instructed(dict(zip(self._settings.rows, logits, strict=True)), self._settings.weights)
        )
        chosen = yield from self._step(wanted)
        purse = self._purse
        if chosen.token_id in self._settings.eos_token_ids and (opened := self._opened_purse()) is not None:
            purse = opened
            wanted = self._without_end(replace(wanted, **self._allowance(opened)))
            chosen = yield from self._step(wanted)
        spent = chosen.spent
        if self._constraint is not None and chosen.token_id not in self._settings.eos_token_ids:
            token_id = self._constraint.choose(chosen.token_id, self.remaining - 1)
            if token_id != chosen.token_id:
                chosen = yield from self._step(replace(wanted, given=token_id))
        return Choice(chosen, purse, spent)

    def accept(self, choice: Choice) -> DecodedToken:
        """Append what was chosen.

        Raises:
            ConstraintError: the grammar grew past the grammar engine's limits.
        """
        self._uniform, self._purse = None, choice.purse
        if self._purse is not None:
            assert choice.spent is not None, "there is a budget"
            self._purse.spend(choice.spent)
        chosen = choice.chosen
        decoded = self._append(chosen.token_id, chosen)
        if self._guard is not None and (chosen.choices is None or chosen.choices > 1):
            self._watch(self._guard, chosen)
        return decoded

    def take(self, chosen: Chosen) -> DecodedToken:
        """Append a token that was chosen elsewhere, by the same settings: what `advance` does where it is chosen here.

        Raises:
            ConstraintError: the constraint does not allow it.
        """
        if self.due() == chosen.token_id:
            self._due.pop(0)
            return self._append(chosen.token_id, None)
        return self._append(chosen.token_id, chosen)

    def due(self) -> int | None:
        """The next token, where it closes a thought that has had all its tokens; for those who append one at a time."""
        if not self._due:
            self._due = list(self._close_thought())
        return self._due[0] if self._due else None

    def forced(self) -> list[DecodedToken]:
        """The tokens about which there is no choice, appended; the last one may end the answer.

        They close a thought that has had all its tokens, or are what the constraint leaves.
        """
        tokens: list[DecodedToken] = []
        while token_ids := self._close_thought() or (self._constraint.forced() if self._constraint is not None else ()):
            for token_id in token_ids:
                tokens.append(self._append(token_id, None))
                if tokens[-1].finish_reason is not None:
                    return tokens
        return tokens

    def result(self, finish_reason: FinishReason | None) -> DecodedText:
        """The answer so far."""
        return DecodedText(
            text=self._answer.text,
            token_ids=tuple(self._token_ids),
            finish_reason=finish_reason,
            tokens=tuple(self._recorder.tokens),
            logprobs=tuple(self._recorder.generated),
            tool_calls=tuple(self._parser.tool_calls),
            invalid_tool_calls=tuple(self._parser.invalid_tool_calls),
            reasoning=self._answer.reasoning,
            warnings=tuple(self._warnings),
            row_logprobs={name: tuple(values) for name, values in self._row_logprobs.items()},
            answer_start=self._answer_start,
        )

    def _append(self, token_id: int, chosen: Chosen | None) -> DecodedToken:
        """Take a token into the answer: one that was chosen in a step, or one that was forced."""
        self._token_ids.append(token_id)
        region, self._was_steered = self._parser.region, self._is_steered
        strength = self._strength if self._was_steered else 0.0
        ended = token_id in self._settings.eos_token_ids
        decoded = "" if ended else self._detokenizer.push(token_id)
        if chosen is None:
            temperature = self._settings.sampling.temperature
            self._recorder.add_forced(token_id, decoded, temperature, strength=strength)
        else:
            self._recorder.add(chosen, decoded, strength=strength)
            for name, values in self._row_logprobs.items():
                values.append(chosen.row_logprobs[name])
        if self._thoughts is not None:
            self._thoughts.take(region)
        if region == "thought" and not self._answer.text.strip() and not self._parser.tool_calls:
            self._begin_answer()
        delta = self._parser.push(decoded)
        complete = False
        if self._constraint is not None and not ended:
            self._constraint.advance(token_id)
            complete = self._constraint.complete
        reason: FinishReason | None = None
        if ended or complete or self._parser.stopped:
            reason = "stop"
        elif self.remaining <= 0:
            reason = "length"
        if reason is not None:
            delta += self._flush()
            reason = self._final(reason)
        self._answer += delta
        recorded = self._recorder
        return DecodedToken(token_id, delta, reason, tuple(recorded.generated[-1:]), tuple(recorded.tokens[-1:]))

    @property
    def remaining(self) -> int:
        """Tokens that may still be appended."""
        return self._settings.max_new_tokens - len(self._token_ids)

    @property
    def _is_steered(self) -> bool:
        """Whether the next token is in the scope of steering."""
        return self._parser.region in self._scope

    def _close_thought(self) -> Sequence[int]:
        """The tokens that close a thought which has had all that it may have; none where it may go on.

        Nor where the form of the answer has no room for them: within a character, or in JSON that quotes a marker.
        """
        if self._thoughts is None:
            return ()
        token_ids = self._thoughts.closing(self._token_ids, self._parser.region)
        if not token_ids or (self._constraint is not None and not self._constraint.make_way(token_ids)):
            return ()
        self._thoughts.close()
        detail = f"{self._thoughts.thought} tokens of thought, and max_reasoning_tokens={self._thoughts.most}"
        self._warnings.append(TraceWarning("thought_cut", len(self._token_ids), detail, self._strength))
        return token_ids

    def _begin_answer(self) -> None:
        """What comes after the tokens so far is the answer, and they are a thought before it."""
        self._answer_start = len(self._token_ids)
        for values in self._row_logprobs.values():
            values.clear()

    @property
    def _strength(self) -> float:
        return self._settings.strength * self._relaxation

    def _watch(self, guard: Guard, chosen: Chosen) -> None:
        """Record what the guard has to say about the token just appended, and steer less where that is wanted."""
        finding = guard.watch(chosen.token_id, chosen.entropies)
        if finding is None:
            return
        before, relaxes = self._strength, self._relaxes and self._was_steered
        if relaxes:
            self._relaxation *= _RELAXATION
        after = self._strength if relaxes else None
        self._warnings.append(TraceWarning(finding.kind, len(self._token_ids) - 1, finding.detail, before, after))

    def _final(self, reason: FinishReason) -> FinishReason:
        """The finish reason, once everything that was held back is known."""
        if self._parser.invalid_tool_calls:
            return reason
        if self._parser.tool_calls:
            return "tool_calls"
        return "stop" if self._parser.stopped else reason

    def _wanted(self, logits: Mapping[str, Tensor]) -> Wanted:
        """What the next step is to be, with a random number of its own."""
        if self._critical_tokens is not None:  # it moves to where the logits are once
            self._critical_tokens = self._critical_tokens.to(logits[BASE].device)
        return Wanted(
            logits=logits,
            steering=self._settings.steering,
            sampling=self._settings.sampling,
            strength=self._strength,
            avoid_strength=self._settings.avoid_strength * self._relaxation,
            uniform=self._next_uniform(),
            critical_tokens=self._critical_tokens,
            masked=self._masked,
            watched=self._guard is not None,
            shown=SHOWN if self._settings.traced else 0,
            **self._allowance(self._purse),
        )

    def _next_uniform(self) -> float:
        """The random number of the next token, the same until it is appended."""
        if self._uniform is None:
            self._uniform = torch.rand(1, generator=self._generator, dtype=torch.float64).tolist()[0]
        return self._uniform

    def _allowance(self, purse: Purse | None) -> _Allowance:
        """What of its budget the next token may spend."""
        if purse is None:
            return {"budget": None, "quiet_divergence": 0.0}
        left = purse.left if self._is_steered else 0.0
        return {"budget": left, "quiet_divergence": purse.quiet_divergence}

    def _opened_purse(self) -> Purse | None:
        """What the answer has left with its reserve, where it would end; None where no reserve opens."""
        return self._purse.opened() if self._purse is not None and self._is_steered else None

    def _without_end(self, wanted: Wanted) -> Wanted:
        """The same for an answer that has to go on; where it has a form, that decides."""
        if self._constraint is not None or self._settings.budget is None or not self._settings.budget.goes_on:
            return wanted
        ends = sorted(self._settings.eos_token_ids)
        logits = {name: values.clone() for name, values in wanted.logits.items()}
        for values in logits.values():
            values[ends] = -torch.inf
        return replace(wanted, logits=logits, masked=True)

    def _step(self, wanted: Wanted) -> Generator[Sequence[Wanted], Sequence[Chosen], Chosen]:
        """What came of a step, if there is a distribution; whether tokens of the model are masked is remembered."""
        (chosen,) = yield [wanted]
        self._masked = self._masked or chosen.masked
        if chosen.broken:
            raise NumericalError(
                f"The model's logits hold NaN or nothing but -inf at token {len(self._token_ids)} of the answer, so "
                f"there is nothing to sample from. Load the model with dtype='float32', and check its weights."
            )
        return chosen

    def _flush(self) -> Delta:
        """What is still held back at the end; a stop string may be complete only with the last of it."""
        return self._parser.push(self._detokenizer.flush()) + self._parser.flush()


def _with_special_tokens(tokenizer: SafeTokenizer) -> Callable[[Sequence[int]], str]:
    return lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=False)
