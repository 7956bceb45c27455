"""What a request gives back: a Completion, and the Pieces that a stream delivers on the way to it."""

import json
from dataclasses import dataclass, replace
from typing import Literal

from sda_engine.choosing import Attempt
from sda_engine.evaluators.protocol import Score
from sda_engine.output import InvalidToolCall, ToolCall
from sda_engine.results.trace import Trace, TraceToken

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Usage:
    """Token counts of a request.

    Attributes:
        prompt_tokens: tokens of the prompt as the user wrote it, rendered by the chat template, without the
            alignment instruction.
        completion_tokens: tokens of the answer, the end-of-sequence token included.
        base_response_tokens: tokens of the base response that was decoded to be rated; 0 where none was, and where it
            is the answer itself, whose tokens count once.
        dropped_tokens: tokens of the revisions that are not the answer.
        cached_prompt_tokens: how many of the prompt tokens did not have to be computed, since an earlier request began
            alike.
    """

    prompt_tokens: int
    completion_tokens: int
    base_response_tokens: int = 0
    cached_prompt_tokens: int = 0
    dropped_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt, answer, base response and dropped revisions together."""
        return self.prompt_tokens + self.completion_tokens + self.base_response_tokens + self.dropped_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of one token in the steered distribution, before temperature and truncation, in nats."""

    token_id: int
    text: str
    logprob: float

    @property
    def known_bytes(self) -> bytes | None:
        """Its bytes in UTF-8; None where it is only part of a character, which decodes to U+FFFD."""
        return None if "\N{REPLACEMENT CHARACTER}" in self.text else self.text.encode()


@dataclass(frozen=True)
class GeneratedTokenLogprobs:
    """The chosen token's log-probability, and the most likely tokens at that place, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Completion:
    """The answer to one request, and what steering did to get there.

    Attributes:
        text: the answer, without stop string, special tokens, reasoning and tool calls.
        token_ids: the tokens of the answer, the end-of-sequence token included where the model gave one.
        finish_reason: "stop" (end of sequence, stop string, or a constraint that is fulfilled), "length"
            (max_new_tokens or the context window reached), or "tool_calls" (the answer calls tools).
        usage: token counts.
        base_response: text of the base response, where an evaluator needed one.
        score: the evaluator's rating, or the fallback that was taken; None where the amplification was fixed or
            nothing was steered.
        amplification: the amplification factor used, in [0, 1]; None for a plain answer and for a base response
            that was accepted as it is.
        trace: what steering did at each token.
        tool_calls: calls of tools, in the chat format: they can go back into the messages as they are.
        invalid_tool_calls: the call that the token limit cut off, if any, and calls whose arguments do not fit their
            tool's schema where no grammar could enforce it.
        reasoning: what a model that thinks wrote between its <think> and </think>.
        logprobs: one entry per token where Sampling.logprobs asked for it, else None.
        attempts: the revisions that the answer was chosen among; where none was chosen, the base response is it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    trace: Trace
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    reasoning: str = ""
    base_response: str | None = None
    score: Score | None = None
    amplification: float | None = None
    logprobs: tuple[GeneratedTokenLogprobs, ...] | None = None
    attempts: tuple[Attempt, ...] = ()

    def sda_metadata(self) -> dict[str, object]:
        """SDA's own figures as plain JSON, for a framework's response metadata."""
        return {
            "alignment": self.trace.alignment,
            "amplification": self.amplification,
            "strength": self.trace.strength,
            "score": self.score.model_dump(mode="json") if self.score is not None else None,
            "base_response": self.base_response,
            "mean_divergence": self.trace.mean_divergence,
            "mean_temperature": self.trace.mean_temperature,
            "base_response_tokens": self.usage.base_response_tokens,
            **({"attempts": [attempt.as_json() for attempt in self.attempts]} if self.attempts else {}),
        }


@dataclass(frozen=True)
class ToolCallDelta:
    """What a step adds to a tool call.

    Attributes:
        index: which call of the answer, from 0.
        id, name: on the first delta of a call, else None.
        arguments: a piece of the arguments' JSON text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Delta:
    """What a step adds to an answer: text that is said, text that is thought, and parts of tool calls."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __add__(self, later: "Delta") -> "Delta":
        calls, more = self.tool_calls, later.tool_calls
        if calls and more and more[0].id is None and calls[-1].index == more[0].index:  # the same call goes on
            joined = replace(calls[-1], arguments=calls[-1].arguments + more[0].arguments)
            calls, more = (*calls[:-1], joined), more[1:]
        return Delta(self.text + later.text, self.reasoning + later.reasoning, (*calls, *more))


@dataclass(frozen=True)
class Piece(Delta):
    """One step of a stream. Joined, the texts of all pieces are the Completion's text, and their traces its trace's
    tokens.

    Attributes:
        text: newly decided text; may be "" while a character or a possible stop string is incomplete.
        reasoning: newly decided reasoning.
        tool_calls: what is new of tool calls.
        token_ids: the tokens behind it.
        logprobs: their log-probabilities where Sampling.logprobs asked for them.
        completion: the whole Completion, on the last piece only.
        trace: what steering did at these tokens.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[GeneratedTokenLogprobs, ...] = ()
    completion: Completion | None = None
    trace: tuple[TraceToken, ...] = ()


def whole_piece(completion: Completion) -> Piece:
    """The one piece of an answer that nobody saw growing."""
    return Piece(
        completion.text,
        completion.reasoning,
        tuple(_whole_call(place, call) for place, call in enumerate(completion.tool_calls)),
        completion.token_ids,
        completion.logprobs or (),
        completion=completion,
        trace=completion.trace.tokens,
    )


def _whole_call(index: int, call: ToolCall) -> ToolCallDelta:
    function = call["function"]
    return ToolCallDelta(index, call["id"], function["name"], json.dumps(function["arguments"], ensure_ascii=False))
