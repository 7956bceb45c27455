"""What a server answered, as Completion and Pieces: the client's half of the wire format, on the way in."""

import json
from collections.abc import Sequence

from sda_engine.choosing import Attempt, Revision
from sda_engine.errors import ServerError
from sda_engine.evaluators.protocol import Score
from sda_engine.output import InvalidToolCall, ToolCall
from sda_engine.results import (
    Candidate,
    Completion,
    Delta,
    GeneratedTokenLogprobs,
    Piece,
    TokenLogprob,
    ToolCallDelta,
    Trace,
    TraceMeans,
    TraceToken,
    TraceWarning,
    Usage,
)
from sda_engine.wire.replies import (
    AnswerMessage,
    AttemptRecord,
    Call,
    CandidatePair,
    ChatChunk,
    ChatReply,
    FinishReason,
    InvalidCallRecord,
    LikelyToken,
    Logprobs,
    ScoreRecord,
    SDAPart,
    SDAResult,
    TokenRecord,
    UsageReport,
    WarningRecord,
)


def read_completion(reply: ChatReply) -> Completion:
    """The Completion of a reply with one answer.

    Raises:
        ServerError: the reply has no answer, or none of SDA's figures.
    """
    if len(reply.choices) != 1:
        raise _malformed(f"{len(reply.choices)} answers in place of one")
    (choice,) = reply.choices
    sda = reply.sda or choice.sda
    if sda is None:
        raise _malformed("no figures of SDA")
    said = Delta(choice.message.content or "", choice.message.reasoning_content or "")
    answer = _Answer(said, sda.token_ids or (), _read_logprobs(choice.logprobs), _read_trace(sda))
    return answer.completion(
        choice.finish_reason, tuple(map(_read_call, choice.message.tool_calls or ())), reply.usage, sda
    )


class ChunkReader:
    """Makes Pieces of the chunks of a stream with one answer; the last one is given out when the token counts came."""

    def __init__(self) -> None:
        self._so_far = Delta()
        self._token_ids: list[int] = []
        self._logprobs: list[GeneratedTokenLogprobs] = []
        self._trace: list[TraceToken] = []
        self._last: tuple[Piece, FinishReason, SDAResult] | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return self._so_far.text

    def add(self, chunk: ChatChunk) -> Piece | None:
        """The piece of a chunk; None where it brings nothing new.

        Raises:
            ServerError: the stream is none that a server of ours would send.
        """
        if not chunk.choices:
            return self._end(chunk.usage)
        if len(chunk.choices) != 1 or self._last is not None:
            raise _malformed("more than one answer in a stream")
        (choice,) = chunk.choices
        sda = chunk.sda or choice.sda
        piece = self._piece(choice.delta, choice.logprobs, sda)
        if choice.finish_reason is None:
            return piece if piece != Piece() else None
        if not isinstance(sda, SDAResult):
            raise _malformed("no figures of SDA")
        self._last = piece, choice.finish_reason, sda
        return self._end(chunk.usage) if chunk.usage is not None else None

    def _end(self, usage: UsageReport | None) -> Piece | None:
        if usage is None:
            return None
        if self._last is None:
            raise _malformed("token counts before the end of the answer")
        piece, finish_reason, sda = self._last
        answer = _Answer(self._so_far, tuple(self._token_ids), tuple(self._logprobs) or None, tuple(self._trace))
        invalid = {call.index for call in sda.invalid_tool_calls}
        calls = [_joined_call(call) for call in self._so_far.tool_calls if call.index not in invalid]
        valid = tuple(call for call in calls if call is not None)
        completion = answer.completion(finish_reason, valid, usage, sda)
        return Piece(
            piece.text, piece.reasoning, piece.tool_calls, piece.token_ids, piece.logprobs, completion, piece.trace
        )

    def _piece(self, delta: AnswerMessage, logprobs: Logprobs | None, sda: SDAPart | None) -> Piece:
        piece = Piece(
            delta.content or "",
            delta.reasoning_content or "",
            tuple(map(_read_call_delta, delta.tool_calls or ())),
            token_ids=() if sda is None else sda.token_ids or (),
            logprobs=_read_logprobs(logprobs) or (),
            trace=() if sda is None else _read_trace(sda),
        )
        self._so_far += piece
        self._token_ids += piece.token_ids
        self._logprobs += piece.logprobs
        self._trace += piece.trace
        return piece


class _Answer:
    """What an answer said, whole."""

    def __init__(
        self,
        said: Delta,
        token_ids: tuple[int, ...],
        logprobs: tuple[GeneratedTokenLogprobs, ...] | None,
        trace: tuple[TraceToken, ...],
    ) -> None:
        self._said = said
        self._token_ids = token_ids
        self._logprobs = logprobs
        self._trace = trace

    def completion(
        self, finish_reason: FinishReason, calls: tuple[ToolCall, ...], usage: UsageReport, sda: SDAResult
    ) -> Completion:
        """The Completion, with SDA's figures."""
        return Completion(
            text=self._said.text,
            token_ids=self._token_ids,
            finish_reason=finish_reason,
            usage=_read_usage(usage, sda),
            trace=Trace(
                tokens=self._trace,
                alignment=sda.alignment,
                strength=sda.strength,
                warnings=tuple(map(_read_warning, sda.warnings)),
                means=None if self._trace else TraceMeans(sda.mean_divergence, sda.mean_temperature),
            ),
            tool_calls=calls,
            invalid_tool_calls=tuple(map(_read_invalid_call, sda.invalid_tool_calls)),
            reasoning=self._said.reasoning,
            base_response=sda.base_response,
            score=None if sda.score is None else _read_score(sda.score),
            amplification=sda.amplification,
            logprobs=self._logprobs,
            attempts=tuple(map(_read_attempt, sda.attempts)),
        )


def _read_usage(usage: UsageReport, sda: SDAResult) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens - sda.base_response_tokens - sda.dropped_tokens,
        base_response_tokens=sda.base_response_tokens,
        cached_prompt_tokens=usage.prompt_tokens_details.cached_tokens,
        dropped_tokens=sda.dropped_tokens,
    )


def _read_call(call: Call) -> ToolCall:
    return _made_call(call.id, call.function.name, call.function.arguments)


def _joined_call(call: ToolCallDelta) -> ToolCall | None:
    """A call whose pieces have all come; None where it is none that is whole."""
    try:
        return _made_call(call.id, call.name, call.arguments)
    except ServerError:
        return None


def _made_call(call_id: str | None, name: str | None, arguments: str) -> ToolCall:
    try:
        read = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise _malformed("a tool call whose arguments are no JSON") from error
    if name is None or not isinstance(read, dict):
        raise _malformed("a tool call without a name, or with arguments that are no object")
    return ToolCall(type="function", id=call_id or "", function={"name": name, "arguments": read})


def _read_call_delta(call: Call) -> ToolCallDelta:
    return ToolCallDelta(call.index or 0, call.id, call.function.name, call.function.arguments)


def _read_invalid_call(call: InvalidCallRecord) -> InvalidToolCall:
    return InvalidToolCall(index=call.index, id=call.id, name=call.name, text=call.text, error=call.error)


def _read_logprobs(logprobs: Logprobs | None) -> tuple[GeneratedTokenLogprobs, ...] | None:
    if logprobs is None or logprobs.content is None:
        return None
    return tuple(
        GeneratedTokenLogprobs(_read_likely(place), tuple(map(_read_likely, place.top_logprobs)))
        for place in logprobs.content
    )


def _read_likely(token: LikelyToken) -> TokenLogprob:
    return TokenLogprob(-1 if token.token_id is None else token.token_id, token.token, token.logprob)


def _read_trace(sda: SDAPart) -> tuple[TraceToken, ...]:
    return tuple(map(_read_token, sda.trace or ()))


def _read_token(record: TokenRecord) -> TraceToken:
    return TraceToken(
        token_id=record.token_id,
        text=record.text,
        divergence=record.divergence,
        temperature=record.temperature,
        logprob=record.logprob,
        base=_candidates(record.base),
        instructed=_candidates(record.instructed),
        steered=_candidates(record.steered),
        strength=record.strength,
        position=record.position,
        spent=record.spent,
        forced=record.forced,
    )


def _candidates(pairs: Sequence[CandidatePair]) -> tuple[Candidate, ...]:
    return tuple(Candidate(text, probability) for text, probability in pairs)


def _read_warning(record: WarningRecord) -> TraceWarning:
    return TraceWarning(record.kind, record.place, record.detail, record.strength, record.new_strength)


def _read_score(record: ScoreRecord) -> Score:
    return Score(
        value=record.value,
        evaluator=record.evaluator,
        reason=record.reason,
        samples=record.samples,
        fallback=record.fallback,
        members=tuple(map(_read_score, record.members)),
    )


def _read_attempt(record: AttemptRecord) -> Attempt:
    return Attempt(
        text=record.text,
        strength=record.strength,
        revision=Revision.of_values(record.revision),
        lost=record.lost,
        score=record.score,
        chooser=record.chooser,
        chosen=record.chosen,
    )


def _malformed(what: str) -> ServerError:
    return ServerError(
        f"The server's reply has {what}: it is no server of sda-integrations, or of another version. Check base_url."
    )
