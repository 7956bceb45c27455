"""What an engine answered, as a reply: the server's half of the wire format, on the way out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sda_engine.choosing import Attempt
from sda_engine.evaluators.protocol import Score
from sda_engine.output import ToolCall
from sda_engine.results import (
    Candidate,
    Completion,
    GeneratedTokenLogprobs,
    Piece,
    TokenLogprob,
    ToolCallDelta,
    TraceToken,
    Usage,
)
from sda_engine.wire.replies import (
    AnswerMessage,
    AttemptRecord,
    Call,
    CalledFunction,
    CandidatePair,
    ChatChunk,
    ChatReply,
    Choice,
    ChunkChoice,
    InvalidCallRecord,
    LikelyToken,
    Logprobs,
    PromptDetails,
    ScoreRecord,
    SDAPart,
    SDAResult,
    TokenLogprobs,
    TokenRecord,
    UsageReport,
    WarningRecord,
)

LEAST_LOGPROB = -9999.0
"""What stands for the log-probability of what is impossible, since JSON has no infinity; OpenAI's choice."""

_FALLBACK_REASON = "The evaluator failed; the server's log tells why."


@dataclass(frozen=True)
class ReplyWriter:
    """Writes the reply of one request.

    Attributes:
        id: of the reply.
        created: seconds since 1970.
        model: what the request called the model.
        trace: whether it asked for what steering did at each token.
        token_ids: whether it asked for ids.
        choices: how many answers it asked for; of one alone SDA's figures stand at the top of the reply.
        evaluator_name: an evaluator's own name -> what clients know it by.
    """

    id: str
    created: int
    model: str
    trace: bool = False
    token_ids: bool = False
    choices: int = 1
    evaluator_name: Callable[[str], str] = str

    def reply(self, completions: Sequence[Completion]) -> ChatReply:
        """The whole reply, with an answer per choice."""
        results = [
            self._result(completion, *self._asked_for(completion.token_ids, completion.trace.tokens))
            for completion in completions
        ]
        alone = self.choices == 1
        return ChatReply(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=tuple(
                Choice(
                    index=index,
                    message=_message(completion),
                    logprobs=self._logprobs(completion.logprobs),
                    finish_reason=completion.finish_reason,
                    sda=None if alone else result,
                )
                for index, (completion, result) in enumerate(zip(completions, results, strict=True))
            ),
            usage=usage_report([completion.usage for completion in completions]),
            sda=results[0] if alone else None,
        )

    def first_chunk(self, index: int) -> ChatChunk:
        """The chunk that begins an answer, before its first piece."""
        return self._chunk(ChunkChoice(index=index, delta=AnswerMessage(role="assistant", content="")), None)

    def chunk(self, index: int, piece: Piece) -> ChatChunk | None:
        """The chunk of one piece of an answer; None where there is nothing in it to tell."""
        completion = piece.completion
        delta = AnswerMessage(
            content=piece.text or None,
            reasoning_content=piece.reasoning or None,
            tool_calls=tuple(map(_call_delta, piece.tool_calls)) or None,
        )
        ids, trace = self._asked_for(piece.token_ids, piece.trace)
        if completion is not None:
            sda: SDAPart | None = self._result(completion, ids, trace)
        elif ids or trace:
            sda = SDAPart(token_ids=ids, trace=trace)
        elif piece.text or piece.reasoning or piece.tool_calls or piece.logprobs:
            sda = None
        else:
            return None
        choice = ChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(piece.logprobs or None),
            finish_reason=None if completion is None else completion.finish_reason,
        )
        return self._chunk(choice, sda)

    def usage_chunk(self, usages: Sequence[Usage]) -> ChatChunk:
        """The chunk that tells the token counts of all choices, behind their last ones."""
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=(), usage=usage_report(usages))

    def _chunk(self, choice: ChunkChoice, sda: SDAPart | None) -> ChatChunk:
        if self.choices > 1:
            choice, sda = choice.model_copy(update={"sda": sda}), None
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=(choice,), sda=sda)

    def _asked_for(
        self, token_ids: Sequence[int], trace: Sequence[TraceToken]
    ) -> tuple[tuple[int, ...] | None, tuple[TokenRecord, ...] | None]:
        """Ids and records of tokens, as far as the request asked for them."""
        return tuple(token_ids) if self.token_ids else None, tuple(map(_token_record, trace)) if self.trace else None

    def _result(
        self, completion: Completion, token_ids: tuple[int, ...] | None, records: tuple[TokenRecord, ...] | None
    ) -> SDAResult:
        trace, usage = completion.trace, completion.usage
        return SDAResult(
            alignment=trace.alignment,
            amplification=completion.amplification,
            strength=trace.strength,
            score=None if completion.score is None else self._score(completion.score),
            base_response=completion.base_response,
            base_response_tokens=usage.base_response_tokens,
            dropped_tokens=usage.dropped_tokens,
            mean_divergence=trace.mean_divergence,
            mean_temperature=trace.mean_temperature,
            warnings=tuple(WarningRecord.model_validate(warning, from_attributes=True) for warning in trace.warnings),
            attempts=tuple(map(self._attempt, completion.attempts)),
            invalid_tool_calls=tuple(InvalidCallRecord(**call) for call in completion.invalid_tool_calls),
            token_ids=token_ids,
            trace=records,
        )

    def _attempt(self, attempt: Attempt) -> AttemptRecord:
        chooser = None if attempt.chooser is None else self.evaluator_name(attempt.chooser)
        return AttemptRecord.model_validate({**attempt.as_json(), "chooser": chooser})

    def _score(self, score: Score) -> ScoreRecord:
        """A score without what its evaluator's failures said, and its members' own names: the server's matters."""
        reason = None if score.members or score.failures else score.reason  # that of an ensemble names its members
        return ScoreRecord(
            value=score.value,
            evaluator=self.evaluator_name(score.evaluator),
            reason=reason if score.fallback is None else _FALLBACK_REASON,
            samples=score.samples,
            fallback=score.fallback,
            members=tuple(map(self._score, score.members)),
        )

    def _logprobs(self, places: Sequence[GeneratedTokenLogprobs] | None) -> Logprobs | None:
        if places is None:
            return None
        return Logprobs(
            content=tuple(
                TokenLogprobs(
                    **self._likely(place.chosen).model_dump(),
                    top_logprobs=tuple(map(self._likely, place.top)),
                )
                for place in places
            )
        )

    def _likely(self, token: TokenLogprob) -> LikelyToken:
        known = token.known_bytes
        return LikelyToken(
            token=token.text,
            logprob=_in_json(token.logprob),
            bytes=None if known is None else tuple(known),
            token_id=token.token_id if self.token_ids else None,
        )


def usage_report(usages: Sequence[Usage]) -> UsageReport:
    """Token counts of the answers to one prompt, which counts once."""
    prompt = max(usage.prompt_tokens for usage in usages)
    generated = sum(usage.completion_tokens + usage.base_response_tokens + usage.dropped_tokens for usage in usages)
    cached = max(usage.cached_prompt_tokens for usage in usages)
    return UsageReport(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def _message(completion: Completion) -> AnswerMessage:
    calls = tuple(map(_whole_call, completion.tool_calls))
    return AnswerMessage(
        role="assistant",
        content=completion.text or (None if calls else ""),
        reasoning_content=completion.reasoning or None,
        tool_calls=calls or None,
    )


def _whole_call(call: ToolCall) -> Call:
    function = call["function"]
    arguments = _json_text(function["arguments"])
    return Call(id=call["id"], type="function", function=CalledFunction(name=function["name"], arguments=arguments))


def _json_text(value: object) -> str:
    """JSON text that UTF-8 can write. Half a surrogate pair, which a model may write as an escape, stays one."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _in_json(logprob: float) -> float:
    """A log-probability as JSON can write it, which has neither an infinity nor NaN."""
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB


def _call_delta(delta: ToolCallDelta) -> Call:
    return Call(
        index=delta.index,
        id=delta.id,
        type=None if delta.id is None else "function",
        function=CalledFunction(name=delta.name, arguments=delta.arguments),
    )


def _token_record(token: TraceToken) -> TokenRecord:
    return TokenRecord(
        token_id=token.token_id,
        text=token.text,
        divergence=token.divergence,
        temperature=token.temperature,
        logprob=_in_json(token.logprob),
        strength=token.strength,
        position=token.position,
        spent=token.spent,
        forced=token.forced,
        base=_pairs(token.base),
        instructed=_pairs(token.instructed),
        steered=_pairs(token.steered),
    )


def _pairs(candidates: Sequence[Candidate]) -> tuple[CandidatePair, ...]:
    return tuple((candidate.text, candidate.probability) for candidate in candidates)
