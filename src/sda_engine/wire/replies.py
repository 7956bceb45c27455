"""The replies: OpenAI's completions and chunks with the field `sda`, errors, models and token counts."""

from typing import Any, Literal

from pydantic import Field

from sda_engine.wire.base import Told, left_out

FinishReason = Literal["stop", "length", "tool_calls"]
CandidatePair = tuple[str, float]
"""The text of a token, and its probability in (0, 1]."""


class TokenRecord(Told):
    """What steering did at one token, as `sda_engine.results.TraceToken` has it; candidates best first."""

    token_id: int
    text: str
    divergence: float
    temperature: float
    logprob: float
    strength: float = 0.0
    position: float | None = None
    spent: float | None = None
    forced: bool = False
    base: tuple[CandidatePair, ...] = ()
    instructed: tuple[CandidatePair, ...] = ()
    steered: tuple[CandidatePair, ...] = ()


class WarningRecord(Told):
    """A failure sign that the guard saw, or a thought that was cut, as `sda_engine.results.TraceWarning` has it."""

    kind: Literal["repetition", "collapse", "thought_cut"]
    place: int
    detail: str
    strength: float
    new_strength: float | None = None


class ScoreRecord(Told):
    """An evaluator's rating, as `sda_engine.evaluators.Score` has it."""

    value: float | None
    evaluator: str
    reason: str | None = None
    samples: tuple[float, ...] = ()
    fallback: str | None = None
    members: tuple["ScoreRecord", ...] = ()


class AttemptRecord(Told):
    """A revision that the answer was chosen among, as `sda_engine.choosing.Attempt` has it."""

    text: str
    strength: float
    revision: dict[str, Any]
    lost: str | None = None
    score: float | None = None
    chooser: str | None = None
    chosen: bool = False


class InvalidCallRecord(Told):
    """A call that is none, as `sda_engine.output.InvalidToolCall` has it."""

    index: int = 0
    id: str = ""
    name: str | None = None
    text: str = ""
    error: str = ""


class SDAPart(Told):
    """What a chunk of a stream tells of its tokens, where that was asked for."""

    token_ids: tuple[int, ...] | None = left_out()
    trace: tuple[TokenRecord, ...] | None = left_out()


class SDAResult(SDAPart):
    """What SDA did.

    Attributes:
        alignment: its name; None for a plain answer.
        amplification: the factor used, 0..1; None for a plain answer and an accepted base response.
        strength: gain * amplification.
        score: the evaluator's rating, or the fallback taken.
        base_response: the text of the base response, where one was decoded.
        base_response_tokens, dropped_tokens: how many of usage.completion_tokens are those of the base response, and of
            revisions that are not the answer.
        mean_divergence: nats, 0..ln 2.
        mean_temperature: of all tokens.
        warnings: what the guard saw, and thoughts that were cut.
        attempts: the revisions that the answer was chosen among.
        invalid_tool_calls: calls that were cut off, or do not fit their schema; they are not among tool_calls.
        token_ids, trace: where they were asked for. In a stream they come with the chunks that they belong to, and the
            other fields with the last one.
    """

    alignment: str | None
    amplification: float | None = None
    strength: float = 0.0
    score: ScoreRecord | None = None
    base_response: str | None = None
    base_response_tokens: int = 0
    dropped_tokens: int = 0
    mean_divergence: float = 0.0
    mean_temperature: float = 0.0
    warnings: tuple[WarningRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    invalid_tool_calls: tuple[InvalidCallRecord, ...] = ()


class LikelyToken(Told):
    """A token and its log-probability, nats. `bytes` is None where it is only part of a character."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    token_id: int | None = left_out()


class TokenLogprobs(LikelyToken):
    """The chosen token, and the most likely ones at its place, best first."""

    top_logprobs: tuple[LikelyToken, ...] = ()


class Logprobs(Told):
    """The log-probabilities of an answer."""

    content: tuple[TokenLogprobs, ...] | None = None
    refusal: None = None


class CalledFunction(Told):
    """A function's name, and the JSON text of its arguments; in a stream a piece of it."""

    name: str | None = left_out()
    arguments: str = ""


class Call(Told):
    """A call of a tool. In a stream, what is new of one: the first piece has id and name."""

    index: int | None = left_out()
    id: str | None = left_out()
    type: Literal["function"] | None = left_out()
    function: CalledFunction


class AnswerMessage(Told):
    """The answer. In a stream, what is new of it."""

    role: Literal["assistant"] | None = left_out()
    content: str | None = None
    reasoning_content: str | None = left_out()
    tool_calls: tuple[Call, ...] | None = left_out()
    refusal: None = None


class Choice(Told):
    """One answer of those that `n` asks for."""

    index: int = 0
    message: AnswerMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason
    sda: SDAResult | None = left_out()


class ChunkChoice(Told):
    """What is new of one answer."""

    index: int = 0
    delta: AnswerMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    sda: SDAResult | SDAPart | None = left_out()


class PromptDetails(Told):
    """How many tokens of the prompt did not have to be computed."""

    cached_tokens: int = 0


class UsageReport(Told):
    """Token counts. Completion tokens are all that were generated, be it for a base response or a dropped revision."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class ChatReply(Told):
    """The reply of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageReport
    sda: SDAResult | None = left_out()


class ChatChunk(Told):
    """One event of its stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: UsageReport | None = left_out()
    sda: SDAResult | SDAPart | None = left_out()


class ErrorObject(Told):
    """What went wrong, as OpenAI tells it.

    Attributes:
        message: what was given, what is legal, and what to do.
        type: the class of errors, in OpenAI's terms.
        param: the path of the field that is wrong.
        code: which error of `sda_engine.errors` it is, see `wire.errors`.
        sda: what the error carries: a base response, the part of an answer, token counts.
    """

    message: str
    type: str = "server_error"
    param: str | None = None
    code: str | None = None
    sda: dict[str, Any] | None = left_out()


class ErrorReply(Told):
    """The reply of whatever failed; an event of a stream, where one breaks."""

    error: ErrorObject


class ModelCard(Told):
    """A model that is served, or an alias of one with an alignment.

    Attributes:
        max_model_len: tokens that it can attend to, prompt and answer together.
        sda: alignment (of an alias, and the server's default), thinks, reads_pictures, backend (what runs the model),
            evaluators (False where clients have to rate), and what the engine tells of itself.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sda"
    max_model_len: int | None = left_out()
    sda: dict[str, Any] = Field(default_factory=dict)


class ModelList(Told):
    """The models."""

    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]


class TokenizeReply(Told):
    """Tokens of a text, or how many a chat becomes.

    Attributes:
        count: how many.
        max_model_len: tokens that the model can attend to.
        tokens: ids, of a text.
    """

    count: int
    max_model_len: int
    tokens: tuple[int, ...] | None = left_out()
