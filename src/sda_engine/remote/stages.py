"""The stages of a score-guided answer at a server that has no evaluators: what is asked of it, and what comes of it.

The stages are those of an engine: a base response, its score, the amplification that the score means, the steered
answer. Here the first and the last are requests, a plain one and one with a fixed amplification.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sda_engine.config import Steering
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import (
    EvaluationRequest,
    Evaluator,
    Score,
    evaluator_name,
    needs_logprobs,
    needs_model,
)
from sda_engine.output import FunctionCall, ToolCall
from sda_engine.prompts import Message
from sda_engine.rating import Verdict, accepts, amplification_of, rated_text, rating, why_unrated
from sda_engine.remote.server import ModelFacts
from sda_engine.request_settings import RequestSettings
from sda_engine.results import Completion, Piece
from sda_engine.wire.write_request import read_chat, write_chat_request, write_sda_field

_SEEDS = 2**31


def asks_evaluators(settings: RequestSettings) -> bool:
    """Whether a request needs evaluators, so that it counts whether the server has any. A fixed score needs none."""
    steering = settings.steering
    return settings.alignment is not None and (_is_rated(steering) or steering.chooser is not None)


def rates_here(settings: RequestSettings, facts: ModelFacts) -> bool:
    """Whether a request has to be rated by the client.

    Raises:
        ConfigError: the server has no evaluators, and the request asks for one that cannot rate anywhere else.
    """
    if facts.has_evaluators:
        return False
    steering = settings.steering
    if steering.chooser is not None:
        raise ConfigError(
            f"Steering.chooser={evaluator_name(steering.chooser)} cannot rate revisions: this server "
            f"({facts.backend}) has no evaluators, and revisions do not leave it. Leave the chooser out, set "
            f"policy='budget', or ask a server that `sda serve` runs.",
            field="chooser",
        )
    if not _is_rated(steering):
        return False
    if needs_model(steering.evaluator) or needs_logprobs(steering.evaluator):
        raise ConfigError(
            f"The evaluator {evaluator_name(steering.evaluator)} has to look inside the model, which this server "
            f"({facts.backend}) lets nobody do. Give one that reads the response alone, such as OpenAIEvaluator, fix "
            f"the strength by Steering(amplification=...), or ask a server that `sda serve` runs.",
            field="evaluator",
        )
    return True


class Stages:
    """One request on its way. It decides what is asked next; `Asked` asks.

    Args:
        model: what the server calls it.
        messages: the chat.
        settings: what is asked for.
        facts: what the server tells of the model.
        trace: whether to ask for what steering did at each token.

    Attributes:
        base: the base response, once it has come.
        score: the evaluator's rating, or the fallback taken in its place.

    Raises:
        MessageError, ConfigError: something cannot be sent.
    """

    def __init__(
        self,
        model: str,
        messages: Sequence[Message],
        settings: RequestSettings,
        facts: ModelFacts,
        *,
        trace: bool = False,
    ) -> None:
        self.base: Completion | None = None
        self.score: Score | None = None
        assert settings.alignment is not None, "a plain answer is not rated"
        self._alignment = settings.alignment
        self._steering = settings.steering
        self._facts = facts
        self._messages = read_chat(messages)
        if settings.policy == "revise" and settings.sampling.seed is None and self.evaluator.needs_response:
            # The server decodes the base response again to revise it: it shall be the one that was rated
            settings = replace(settings, sampling=settings.sampling.replace(seed=secrets.randbelow(_SEEDS)))
        # A place for the amplification, so that what cannot be sent shows before anything is
        steered = replace(settings, steering=self._steering.replace(amplification=0.0))
        plain = replace(settings, alignment=None, steering=self._steering.fitting(None))
        self._body = write_chat_request(model, self._messages, steered, trace=trace)
        self._steered, self._plain = (write_sda_field(each, trace=trace) for each in (steered, plain))

    @property
    def evaluator(self) -> Evaluator:
        """Who rates."""
        return self._steering.evaluator

    @property
    def base_body(self) -> Mapping[str, object] | None:
        """What asks for the base response; None where the evaluator needs none."""
        return {**self._body, "sda": self._plain} if self.evaluator.needs_response else None

    def evaluation_request(self) -> EvaluationRequest:
        """What the evaluator is asked.

        Raises:
            EvaluationError: the base response was cut off before there was anything to rate.
        """
        base, response = self.base, ""
        if base is not None:
            response = rated_text(base.text, _all_calls(base))
            if not response.strip() and base.finish_reason == "length":
                raise EvaluationError(self._why_unrated(base))
        return EvaluationRequest(self._messages, response, self._alignment)

    @contextmanager
    def verdict(self) -> Iterator[Verdict]:
        """Around the call of the evaluator: takes its score, or turns its failure into what the user chose.

        Raises:
            EvaluationError: the evaluator failed, and Steering.on_evaluator_error is "raise".
        """
        with rating(self._steering, None if self.base is None else self.base.text) as verdict:
            yield verdict
        self.score = verdict.score

    @property
    def accepted(self) -> Completion | None:
        """The base response as the answer, where it scored so well; else None."""
        base = self.base
        if base is None or not accepts(self._steering, self.score):
            return None
        trace = replace(base.trace, alignment=self._alignment.name)
        return replace(base, trace=trace, base_response=base.text, score=self.score)

    def steered_body(self) -> Mapping[str, object]:
        """What asks for the steered answer.

        Raises:
            ConfigError: a curve of the user's gave no amplification.
        """
        assert self.score is not None, "the evaluator comes first"
        return {**self._body, "sda": {**self._steered, "amplification": amplification_of(self._steering, self.score)}}

    def finish(self, answer: Completion) -> Completion:
        """The steered answer with what the server does not know of. Its tokens are all that were decoded for it."""
        base, usage = self.base, answer.usage
        if base is None:
            return replace(answer, score=self.score)
        usage = replace(
            usage,
            base_response_tokens=usage.base_response_tokens + base.usage.completion_tokens,
            cached_prompt_tokens=base.usage.cached_prompt_tokens,  # by the answer's turn the prompt was stored by ours
        )
        return replace(answer, score=self.score, base_response=base.text, usage=usage)

    def finish_piece(self, piece: Piece) -> Piece:
        """A piece of it likewise."""
        return piece if piece.completion is None else replace(piece, completion=self.finish(piece.completion))

    def _why_unrated(self, base: Completion) -> str:
        tokens = base.usage.completion_tokens
        return why_unrated(
            tokens,
            thought=bool(base.reasoning),
            window_is_full=base.usage.prompt_tokens + tokens >= self._facts.context_window,
            can_skip_thought=self._facts.thinks and "enable_thinking" in self._facts.template_variables,
        )


def _is_rated(steering: Steering) -> bool:
    """Whether somebody has to look at a response: a fixed score is sent by its name, and is one in any server."""
    return steering.amplification is None and type(steering.evaluator) is not FixedScore


def _all_calls(base: Completion) -> list[ToolCall]:
    """The calls of a base response in their order, with those that are whole but do not fit their schema."""
    calls = list(base.tool_calls)
    for invalid in sorted(base.invalid_tool_calls, key=lambda call: call["index"]):
        try:
            function = json.loads(invalid["text"])
        except ValueError:  # it was cut off
            continue
        if isinstance(function, dict) and function.keys() == {"name", "arguments"}:
            called = FunctionCall(name=function["name"], arguments=function["arguments"])
            calls.insert(invalid["index"], ToolCall(type="function", id=invalid["id"], function=called))
    return calls
