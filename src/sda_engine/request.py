"""One request on its way through the stages: base response, score, amplification, steered answer.

It is longer than other files, since all stages share one state; `revising`, `answers` and `text_scorer` hold what needs
none of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from sda_engine.answers import held_against
from sda_engine.choosing import values_to_keep
from sda_engine.config import Region
from sda_engine.decoding import (
    DecodedText,
    DecodeSettings,
    DecodeTask,
    Event,
    PromptState,
    Proposer,
    ReviseTask,
    ScoreTask,
    Task,
    Token,
)
from sda_engine.errors import ContextLengthError, EngineClosedError, EvaluationError
from sda_engine.evaluators.protocol import (
    EvaluationRequest,
    LocalModel,
    Score,
    needs_logprobs,
)
from sda_engine.output import TokenConstraint, join_grammars
from sda_engine.prompts import BASE, INSTRUCTED, Message, draft_messages, normalise_messages
from sda_engine.rating import Verdict, accepts, amplification_of, rated_text, rating, why_unrated
from sda_engine.request_settings import RequestSettings
from sda_engine.results import Completion, Piece, Trace, Usage, whole_piece
from sda_engine.revising import Revising, budget_of, revision_limit, revisions_of
from sda_engine.steering import Budget
from sda_engine.text_scorer import scored_rows
from sda_engine.tokens import SafeTokenizer, text_of_prompt


@dataclass
class Request:
    """The state of a request between its stages. It decides what to do next; the engine does it.

    Attributes:
        proposals: how many tokens at most are proposed at a time.
        token_cost: what one more of them costs, as a fraction of a forward pass.
        grammar: what base response and answer must look like, for llguidance; None for free text.
        constraint: the grammar, once it is compiled; base response and answer each get a copy.
        text_form: `text_grammar`, once it is compiled.
        response_template: how to sort them into text, reasoning and tool calls.
        answer_prefix: what the prompt has already written of the answer.
        thought_closing: the tokens that close a thought, where `Sampling.max_reasoning_tokens` limits it.
        critical_tokens: (vocab,) bool: tokens of `Steering.critical_categories`; None for no category.
        base: the base response, once it has been decoded.
        score: the evaluator's rating, or the fallback taken in its place.
        revising: the revisions of the base response, once there are any.
    """

    messages: Sequence[Message]
    settings: RequestSettings
    prompt: PromptState
    tokenizer: SafeTokenizer
    eos_token_ids: frozenset[int]
    proposals: int = 0
    token_cost: float = 0.0
    grammar: str | None = None
    constraint: TokenConstraint | None = None
    text_form: TokenConstraint | None = None
    response_template: Mapping[str, object] | None = None
    answer_prefix: str = ""
    thought_closing: tuple[int, ...] = ()
    critical_tokens: Tensor | None = None
    base: DecodedText | None = None
    score: Score | None = None
    revising: Revising | None = None
    _evaluation: EvaluationRequest | None = field(default=None, repr=False)
    _answer: DecodeTask | None = field(default=None, repr=False)

    @property
    def wants_score(self) -> bool:
        """Whether an evaluator has to rate before the amplification is known."""
        return self.settings.alignment is not None and self.settings.steering.amplification is None

    @property
    def revises(self) -> bool:
        """Whether the answer is chosen among revisions.

        Not where it may call tools, which keep what they call with, nor where steering leaves its text alone.
        """
        if self.settings.policy != "revise" or self.settings.output.callable_tools:
            return False
        return self.settings.steering.acts_in(self.text_region)

    @property
    def text_region(self) -> Region:
        """What the text of the answer counts as: part of a call where it has to be one, and JSON by a schema apart."""
        output = self.settings.output
        if output.must_call:
            return "call"
        return "structured" if output.constraint is not None and output.constraint.kind == "json_schema" else "text"

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end the text of the answer: none where it is JSON by a schema, since half of that is none."""
        constraint = self.settings.output.constraint
        if constraint is not None and constraint.kind == "json_schema":
            return ()
        return (*self.settings.sampling.stop, *self.prompt.contexts.stop)

    @property
    def text_grammar(self) -> str | None:
        """The grammar of the text alone, where a stop string may end it only if it is whole; else None."""
        constraint = self.settings.output.constraint
        return join_grammars(constraint.grammar("answer")) if constraint is not None and self.stop else None

    @property
    def accepted(self) -> bool:
        """Whether the base response scored so well that it is the answer."""
        return self.base is not None and accepts(self.settings.steering, self.score)

    @property
    def amplification(self) -> float | None:
        """The amplification factor, in [0, 1]; None for a plain answer."""
        if self.settings.alignment is None:
            return None
        if self.settings.steering.amplification is not None:
            return self.settings.steering.amplification
        assert self.score is not None, "the evaluator comes first"
        return amplification_of(self.settings.steering, self.score)

    def evaluation_tasks(self) -> Iterator[Task]:
        """What has to be decoded before the evaluator can rate; each task is to be finished before the next."""
        rates = self.wants_score and self.settings.steering.evaluator.needs_response
        if rates or self.revises:
            task = self._decode(self.prompt, (BASE,), keeps_prompt=not self.revises or rates)
            yield task
            self.base = task.result()
            if self.base.finish_reason is None:
                raise EngineClosedError("The engine was closed while the base response was decoded.")
        if not self.wants_score:
            return
        assert self.settings.alignment is not None
        response = ""
        logprobs: Mapping[str, Tensor] = {}
        if rates:
            assert self.base is not None
            response = rated_text(self.base.text, self.base.tool_calls)
            if not response.strip() and self.base.finish_reason == "length":
                return  # evaluation_request() says why
            if needs_logprobs(self.settings.steering.evaluator):
                rows = scored_rows(self.prompt.contexts)
                scoring = ScoreTask(self.prompt, rows, self._answer_tokens(self.base), first=self.base.answer_start)
                yield scoring
                logprobs = scoring.result()
        self._evaluation = EvaluationRequest(
            messages=self.messages,
            response=response,
            alignment=self.settings.alignment,
            base_logprobs=logprobs.get(BASE),
            instructed_logprobs=logprobs.get(INSTRUCTED),
        )
        self._evaluation.salt = self.settings.salt

    def evaluation_request(self, model: LocalModel) -> EvaluationRequest:
        """What the evaluator is asked, and the model that it may ask in turn.

        Raises:
            EvaluationError: the base response was cut off before there was anything to rate.
        """
        if self._evaluation is None:
            assert self.base is not None, "evaluation_tasks() comes first"
            raise EvaluationError(self._why_unrated(self.base))
        self._evaluation.model = model
        return self._evaluation

    @contextmanager
    def verdict(self) -> Iterator[Verdict]:
        """Around the call of the evaluator: takes its score, or turns its failure into what the user chose.

        Raises:
            EvaluationError: the evaluator failed, and Steering.on_evaluator_error is "raise".
        """
        with self._released_on_failure(), rating(self.settings.steering, self._base_text) as verdict:
            yield verdict
        self.score = verdict.score
        if self.accepted:
            self.prompt.release()

    def steered_task(self) -> DecodeTask:
        """The decoding of the answer itself.

        Raises:
            ConfigError: a curve of the user's gave no amplification.
        """
        with self._released_on_failure():
            strength = self._strength()
        steering, budget = self.settings.steering, None
        if self.settings.policy == "budget":
            budget = Budget(steering.budget, steering.reserve, steering.quiet_divergence)
        self._answer = self._decode(
            self.prompt, tuple(self.prompt.contexts.tails), strength=strength, budget=budget, is_base=False
        )
        return self._answer

    def revise(self, make_prompt: Callable[[list[Message], int, int], PromptState], *, room: int) -> Revising | None:
        """The revisions, not yet decoded; None where the base response is the answer: nothing revises it, or no room.

        Args:
            make_prompt: a chat, tokens that an answer may have, and how many answers, to their prompt.
            room: tokens that all rows of the revisions may come to hold.

        Raises:
            ConfigError: a curve of the user's gave no amplification.
        """
        base = self.base
        assert base is not None, "the base response comes first"
        with self._released_on_failure():
            strength = self._strength()
        self.prompt.release()
        messages = normalise_messages(self.messages)
        values = values_to_keep(messages, base.text)
        revisions = revisions_of(self.settings, base, values)
        seen = Counter(revision.sees for revision in revisions)
        most = self.prompt.max_new_tokens
        try:
            prompts = {
                sees: make_prompt(
                    draft_messages(self.messages, base.text, sees), revision_limit(base, most, sees), count
                )
                for sees, count in seen.items()
            }
        except ContextLengthError:
            return None
        if not prompts or sum(prompt.tokens for prompt in prompts.values()) > room:
            return None
        members = [
            self._decode(
                prompts[revision.sees],
                tuple(self.prompt.contexts.tails),
                strength=strength * revision.factor,
                budget=budget_of(revision),
                keeps_prompt=True,
                is_base=False,
            )
            for revision in revisions
        ]
        strengths = [member.strength for member in members]
        self.revising = Revising(
            messages, self.settings, base, values, self.score, revisions, strengths, ReviseTask(members)
        )
        return self.revising

    def piece(self, event: Event) -> Piece:
        """What a stream delivers for an event of the steered task.

        Raises:
            EngineClosedError: the engine was closed before the answer was whole; what there is of it is in the error.
        """
        if isinstance(event, Token):
            token = event.decoded
            delta = token.delta
            return Piece(
                delta.text, delta.reasoning, delta.tool_calls, (token.token_id,), token.logprobs, trace=token.trace
            )
        assert self._answer is not None, "steered_task() comes first"
        answer = self._answer.result()
        if answer.finish_reason is None:
            raise EngineClosedError(
                f"The engine was closed after {len(answer.token_ids)} tokens of the answer. Ask again, of an engine "
                f"that is open.",
                partial=answer.text,
            )
        return Piece("", completion=self._completion(answer))

    def whole_piece(self) -> Piece:
        """The one piece of an answer that was chosen when it was whole: a revision, or the base response."""
        answer = self.base if self.revising is None else self.revising.answer
        assert answer is not None
        return whole_piece(self._completion(answer))

    def _completion(self, answer: DecodedText) -> Completion:
        rated = self.base if self.base is not answer else None
        steered = answer is not self.base and self.settings.alignment is not None
        revising = self.revising
        strength = self._strength() if revising is None else revising.strength
        answer = held_against(self.settings.output, answer)
        assert answer.finish_reason is not None, "an answer that was broken off is no Completion"
        return Completion(
            text=answer.text,
            token_ids=answer.token_ids,
            finish_reason=answer.finish_reason,
            usage=Usage(
                prompt_tokens=self.prompt.contexts.prompt_tokens(BASE),
                completion_tokens=len(answer.token_ids),
                cached_prompt_tokens=self.prompt.cached_tokens,
                base_response_tokens=len(rated.token_ids) if rated is not None else 0,
                dropped_tokens=0 if revising is None else revising.dropped_tokens,
            ),
            trace=Trace(
                tokens=answer.tokens,
                alignment=self.settings.alignment.name if self.settings.alignment is not None else None,
                strength=strength if steered else 0.0,
                warnings=answer.warnings,
            ),
            tool_calls=answer.tool_calls,
            invalid_tool_calls=answer.invalid_tool_calls,
            reasoning=answer.reasoning,
            base_response=self._base_text,
            score=self.score,
            amplification=self.amplification if steered else None,
            logprobs=answer.logprobs if self.settings.sampling.logprobs is not None else None,
            attempts=() if revising is None else revising.attempts,
        )

    @property
    def _base_text(self) -> str | None:
        return self.base.text if self.base is not None else None

    def _strength(self) -> float:
        return self.settings.steering.gain * (self.amplification or 0.0)

    @contextmanager
    def _released_on_failure(self) -> Iterator[None]:
        """Around a user's code: its exception may be kept, and must keep no rows."""
        try:
            yield
        except BaseException:
            self.prompt.release()
            raise

    def _decode(
        self,
        prompt: PromptState,
        rows: tuple[str, ...],
        *,
        strength: float = 0.0,
        budget: Budget | None = None,
        keeps_prompt: bool = False,
        is_base: bool = True,
    ) -> DecodeTask:
        """A task that decodes from a prompt: the base response, the answer, or a revision."""
        avoid = self.settings.steering.avoid_strength
        settings = DecodeSettings(
            rows=rows,
            strength=strength,
            avoid_strength=strength if avoid is None or is_base else avoid,
            steering=self.settings.steering,
            sampling=self.settings.sampling,
            stop=self.stop,
            text_form=self.text_form,
            max_new_tokens=prompt.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
            constraint=self.constraint,
            response_template=self.response_template,
            answer_prefix=self.answer_prefix,
            thought_closing=self.thought_closing,
            markers=frozenset(self.tokenizer.answer_format.special_tokens.values())
            if self.response_template
            else frozenset(),
            must_call=self.settings.output.must_call,
            text_region=self.text_region,
            critical_tokens=self.critical_tokens,
            budget=budget,
            weights=prompt.contexts.weights,
        )
        tokens = text_of_prompt((*prompt.contexts.shared, *prompt.contexts.tails[BASE]))
        sources = [tokens] if self.base is None else [self.base.token_ids, tokens]
        proposer = Proposer(sources, most=self.proposals, cost=len(rows) * self.token_cost)
        goes_on = not is_base or self.revises or self.settings.steering.accept_score is not None
        return DecodeTask(
            prompt,
            settings,
            self.tokenizer,
            proposer,
            keeps_prompt=keeps_prompt,
            stores_answer=prompt is self.prompt and goes_on,
            continues=self.base is not None,
        )

    def _why_unrated(self, base: DecodedText) -> str:
        most, tokenizer = self.prompt.max_new_tokens, self.tokenizer
        return why_unrated(
            most,
            thought=bool(base.reasoning),
            window_is_full=most != self.settings.sampling.max_new_tokens,
            can_skip_thought=tokenizer.answer_format.thinks and "enable_thinking" in tokenizer.template_variables,
        )

    def _answer_tokens(self, answer: DecodedText) -> tuple[int, ...]:
        """The tokens of an answer without its end-of-sequence token."""
        ended = answer.token_ids and answer.token_ids[-1] in self.eos_token_ids
        return answer.token_ids[:-1] if ended else answer.token_ids
