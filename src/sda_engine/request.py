"""One request on its way through the stages: base response, score, amplification, steered answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from sda_engine.decoding import (
    DecodedText,
    DecodeSettings,
    DecodeTask,
    Event,
    PromptState,
    Proposer,
    ScoreTask,
    Task,
    Token,
)
from sda_engine.errors import EngineClosedError, EvaluationError
from sda_engine.evaluators.protocol import EvaluationRequest, LocalModel, Score, evaluator_name, needs_logprobs
from sda_engine.output import InvalidToolCall, TokenConstraint, ToolCall, join_grammars
from sda_engine.prompts import BASE, INSTRUCTED, Message
from sda_engine.request_settings import RequestSettings
from sda_engine.results import Completion, Piece, ToolCallDelta, Trace, Usage
from sda_engine.text_scorer import scored_rows
from sda_engine.tokens import SafeTokenizer

_FALLBACK_SCORE = 50.0


@dataclass
class Verdict:
    """Where the caller of an evaluator puts what it returned."""

    score: Score | None = None


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
        critical_tokens: (vocab,) bool: tokens of `Steering.critical_categories`; None for no category.
        base: the base response, once it has been decoded.
        score: the evaluator's rating, or the fallback taken in its place.
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
    critical_tokens: Tensor | None = None
    base: DecodedText | None = None
    score: Score | None = None
    _evaluation: EvaluationRequest | None = field(default=None, repr=False)
    _answer: DecodeTask | None = field(default=None, repr=False)

    @property
    def wants_score(self) -> bool:
        """Whether an evaluator has to rate before the amplification is known."""
        return self.settings.alignment is not None and self.settings.steering.amplification is None

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
        wanted, score = self.settings.steering.accept_score, self.score
        if wanted is None or score is None or score.fallback is not None or self.base is None:
            return False
        return score.value is not None and score.value >= wanted

    @property
    def amplification(self) -> float | None:
        """The amplification factor, in [0, 1]; None for a plain answer."""
        if self.settings.alignment is None:
            return None
        if self.settings.steering.amplification is not None:
            return self.settings.steering.amplification
        assert self.score is not None, "the evaluator comes first"
        return 0.0 if self.score.value is None else self.settings.steering.amplification_for(self.score.value)

    def evaluation_tasks(self) -> Iterator[Task]:
        """What has to be decoded before the evaluator can rate; each task is to be finished before the next."""
        if not self.wants_score:
            return
        assert self.settings.alignment is not None
        response = ""
        logprobs: Mapping[str, Tensor] = {}
        if self.settings.steering.evaluator.needs_response:
            task = self._decode((BASE,), strength=0.0, avoid_strength=0.0, is_base=True)
            yield task
            self.base = task.result()
            if self.base.finish_reason is None:
                raise EngineClosedError("The engine was closed while the base response was decoded.")
            response = _rated_text(self.base)
            if not response.strip() and self.base.finish_reason == "length":
                return  # evaluation_request() says why
            if needs_logprobs(self.settings.steering.evaluator):
                rows = scored_rows(self.prompt.contexts)
                scoring = ScoreTask(self.prompt, rows, self._answer_tokens(self.base))
                yield scoring
                logprobs = scoring.result()
        self._evaluation = EvaluationRequest(
            messages=self.messages,
            response=response,
            alignment=self.settings.alignment,
            base_logprobs=logprobs.get(BASE),
            instructed_logprobs=logprobs.get(INSTRUCTED),
        )

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
        verdict = Verdict()
        try:
            yield verdict
            if not isinstance(verdict.score, Score) or verdict.score.value is None:
                raise EvaluationError(f"The evaluator returned {verdict.score!r} in place of a Score.")
            self.score = verdict.score
        except Exception as error:  # noqa: BLE001 - an evaluator is a user's code: whatever it raises is its failure
            self.score = self._fallback(error)
        except BaseException:  # cancelled while it waited
            self.prompt.release()
            raise
        if self.accepted:
            self.prompt.release()

    def steered_task(self) -> DecodeTask:
        """The decoding of the answer itself.

        Raises:
            ConfigError: a curve of the user's gave no amplification.
        """
        try:
            strength = self._strength()
        except BaseException:  # a user's code: the exception may be kept, and must keep no rows
            self.prompt.release()
            raise
        avoid = self.settings.steering.avoid_strength
        self._answer = self._decode(
            tuple(self.prompt.contexts.tails),
            strength=strength,
            avoid_strength=strength if avoid is None else avoid,
        )
        return self._answer

    def piece(self, event: Event) -> Piece:
        """What a stream delivers for an event of the steered task.

        Raises:
            EngineClosedError: the engine was closed before the answer was whole; what there is of it is in the error.
        """
        if isinstance(event, Token):
            token = event.decoded
            delta = token.delta
            return Piece(delta.text, delta.reasoning, delta.tool_calls, (token.token_id,), token.logprobs)
        assert self._answer is not None, "steered_task() comes first"
        answer = self._answer.result()
        if answer.finish_reason is None:
            raise EngineClosedError(
                f"The engine was closed after {len(answer.token_ids)} tokens of the answer. Ask again, of an engine "
                f"that is open.",
                partial=answer.text,
            )
        return Piece("", completion=self._completion(answer))

    def accepted_piece(self) -> Piece:
        """The one piece of an accepted base response."""
        assert self.base is not None
        base = self.base
        completion = self._completion(base)
        calls = tuple(_whole_call(place, call) for place, call in enumerate(completion.tool_calls))
        return Piece(base.text, base.reasoning, calls, base.token_ids, base.logprobs, completion)

    def _completion(self, answer: DecodedText) -> Completion:
        rated = self.base if self.base is not answer else None
        steered = answer is not self.base and self.settings.alignment is not None
        answer = self._checked(answer)
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
            ),
            trace=Trace(
                tokens=answer.tokens,
                alignment=self.settings.alignment.name if self.settings.alignment is not None else None,
                strength=self._strength() if steered else 0.0,
                warnings=answer.warnings,
            ),
            tool_calls=answer.tool_calls,
            invalid_tool_calls=answer.invalid_tool_calls,
            reasoning=answer.reasoning,
            base_response=self.base.text if self.base is not None else None,
            score=self.score,
            amplification=self.amplification if steered else None,
            logprobs=answer.logprobs if self.settings.sampling.logprobs is not None else None,
        )

    def _checked(self, answer: DecodedText) -> DecodedText:
        """An answer held against what its grammar could not enforce: calls that do not fit are invalid ones.

        Raises:
            InvalidOutputError: the text does not fit.
        """
        output = self.settings.output
        if answer.finish_reason == "stop" and not answer.invalid_tool_calls and not output.must_call:
            output.check_text(answer.text)
        misfits = [output.misfit_of_call(call["function"]) for call in answer.tool_calls]
        if not any(misfits):
            return answer
        valid = tuple(call for call, misfit in zip(answer.tool_calls, misfits, strict=True) if misfit is None)
        invalid = tuple(
            _invalid_call(index, call, misfit)
            for index, (call, misfit) in enumerate(zip(answer.tool_calls, misfits, strict=True))
            if misfit is not None
        )
        reason = answer.finish_reason if valid or answer.finish_reason != "tool_calls" else "stop"
        invalid = (*invalid, *answer.invalid_tool_calls)
        return replace(answer, tool_calls=valid, invalid_tool_calls=invalid, finish_reason=reason)

    def _strength(self) -> float:
        return self.settings.steering.gain * (self.amplification or 0.0)

    def _decode(
        self, rows: tuple[str, ...], *, strength: float, avoid_strength: float, is_base: bool = False
    ) -> DecodeTask:
        contexts = self.prompt.contexts
        settings = DecodeSettings(
            rows=rows,
            strength=strength,
            avoid_strength=avoid_strength,
            steering=self.settings.steering,
            sampling=self.settings.sampling,
            stop=self.stop,
            text_form=self.text_form,
            max_new_tokens=self.prompt.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
            constraint=self.constraint,
            response_template=self.response_template,
            answer_prefix=self.answer_prefix,
            markers=frozenset(self.tokenizer.answer_format.special_tokens.values())
            if self.response_template
            else frozenset(),
            must_call=self.settings.output.must_call,
            critical_tokens=self.critical_tokens,
        )
        prompt = (*contexts.shared, *contexts.tails[BASE])
        sources = [prompt] if self.base is None else [self.base.token_ids, prompt]
        proposer = Proposer(sources, most=self.proposals, cost=len(rows) * self.token_cost)
        return DecodeTask(
            self.prompt,
            settings,
            self.tokenizer,
            proposer,
            keeps_prompt=is_base,
            stores_answer=not is_base or self.settings.steering.accept_score is not None,
            continues=self.base is not None,
        )

    def _why_unrated(self, base: DecodedText) -> str:
        """What is wrong with a base response that reached its token limit before it said anything, and the remedy."""
        most, wanted = self.prompt.max_new_tokens, self.settings.sampling.max_new_tokens
        what = "a thought" if base.reasoning else "the beginning of an answer"
        without_thought = self.tokenizer.answer_format.thinks and "enable_thinking" in self.tokenizer.template_variables
        remedies = [f"max_new_tokens (max_tokens) above {wanted}" if most == wanted else "a shorter prompt"]
        if without_thought:
            remedies.append('template_kwargs={"enable_thinking": False}')
        return (
            f"{what} filled all {most} tokens of the base response, so there is no answer to rate. Use "
            f"{' or '.join(remedies)}."
        )

    def _answer_tokens(self, answer: DecodedText) -> tuple[int, ...]:
        """The tokens of an answer without its end-of-sequence token."""
        ended = answer.token_ids and answer.token_ids[-1] in self.eos_token_ids
        return answer.token_ids[:-1] if ended else answer.token_ids

    def _fallback(self, error: Exception) -> Score:
        name = evaluator_name(self.settings.steering.evaluator)
        base_response = self.base.text if self.base is not None else None
        choice = self.settings.steering.on_evaluator_error
        if choice == "raise":
            self.prompt.release()
            reason = str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"
            raise EvaluationError(
                f"{name} gave no score: {reason} To go on without one, set "
                f"Steering(on_evaluator_error='instruct_only') or 'fixed'.",
                base_response=base_response,
            ) from error
        value = _FALLBACK_SCORE if choice == "fixed" else None
        return Score(value=value, evaluator=name, reason=f"{type(error).__name__}: {error}", fallback=choice)


def _rated_text(base: DecodedText) -> str:
    """What an evaluator reads of a base response: its text, and its tool calls as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in base.tool_calls]
    return "\n".join([base.text, *calls] if base.text else calls)


def _invalid_call(index: int, call: ToolCall, misfit: str) -> InvalidToolCall:
    function = call["function"]
    return InvalidToolCall(
        index=index,
        id=call["id"],
        name=function["name"],
        text=json.dumps(function, ensure_ascii=False),
        error=f"The arguments do not fit the schema of {function['name']!r}: {misfit}.",
    )


def _whole_call(index: int, call: ToolCall) -> ToolCallDelta:
    function = call["function"]
    return ToolCallDelta(index, call["id"], function["name"], json.dumps(function["arguments"], ensure_ascii=False))
