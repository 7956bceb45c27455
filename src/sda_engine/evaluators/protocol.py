"""What an evaluator is: something that rates a base response from above 0 to 100."""

import statistics
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import Field

from sda_engine.alignment import Alignment
from sda_engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class EvaluatorUsage(Settings):
    """What a rating has cost.

    Attributes:
        calls: calls of a judge, those that failed included.
        prompt_tokens: tokens that the judge read, as far as its server told.
        completion_tokens: tokens that the judge wrote, as far as its server told.
        cost: what they cost, in the currency of the prices that the evaluator was given; None where it was given none.
    """

    calls: int = Field(default=0, ge=0, description="a whole number of at least 0")
    prompt_tokens: int = Field(default=0, ge=0, description="a whole number of at least 0")
    completion_tokens: int = Field(default=0, ge=0, description="a whole number of at least 0")
    cost: float | None = Field(default=None, ge=0, description="a number of at least 0, or None")

    def __add__(self, other: "EvaluatorUsage") -> "EvaluatorUsage":
        costs = [usage.cost for usage in (self, other) if usage.cost is not None]
        return EvaluatorUsage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost=sum(costs) if costs else None,
        )


class Score(Settings):
    """An evaluator's rating of a response.

    Attributes:
        value: 0 < value <= 100; 100 means already aligned. None only where the fallback "instruct_only" was taken.
        evaluator: who rated.
        reason: the evaluator's own words, if it gave any.
        samples: the single ratings, where several were combined into `value`.
        fallback: None for a real rating; else the name of the fallback that was taken after a failure
            ("instruct_only" or "fixed"), and `reason` then tells the failure.
        usage: what the rating has cost, where a judge was asked; a score from a cache has cost nothing.
        members: the scores of an ensemble's members.
        failures: which of them gave no score, and why.
    """

    value: float | None = Field(gt=0, le=100, description="a number above 0 and at most 100")
    evaluator: str = Field(description="a text that names the evaluator")
    reason: str | None = Field(default=None, description="a text, or None")
    samples: tuple[float, ...] = Field(default=(), description="a tuple of numbers")
    fallback: str | None = Field(default=None, description="the name of a fallback, or None")
    usage: EvaluatorUsage | None = Field(default=None, description="an EvaluatorUsage, or None")
    members: tuple["Score", ...] = Field(default=(), description="a tuple of Scores")
    failures: tuple[str, ...] = Field(default=(), description="a tuple of texts")

    @property
    def disagreement(self) -> float | None:
        """Standard deviation of the single ratings, in points of the score; None where there are fewer than two."""
        return statistics.pstdev(self.samples) if len(self.samples) > 1 else None


class LocalModel(Protocol):
    """The model whose response is rated, for evaluators that ask the model itself. SteeringEngine is one."""

    def continuation_logprobs(
        self, messages: "Sequence[Mapping[str, object]]", continuations: "Sequence[str]"
    ) -> "Tensor":
        """(continuations,) float32, nats: log-probability of each text as the beginning of the answer to a chat."""
        ...

    async def acontinuation_logprobs(
        self, messages: "Sequence[Mapping[str, object]]", continuations: "Sequence[str]"
    ) -> "Tensor":
        """The same for an event loop."""
        ...


class EvaluationRequest:
    """What an evaluator is given.

    Attributes:
        messages: the chat messages, as the user wrote them; a picture in them is {"type": "image", "picture": ...} with
            a sda_engine.pictures.Picture. Judges, who read text, are shown "[image]".
        response: the text of the base response; "" for evaluators that need none.
        alignment: what the response is rated for.
        base_logprobs: (tokens,) float32, nats: log-probability of each token of the response in the base context,
            behind the thought that may come before it; None unless the evaluator's `needs_logprobs` is true.
        instructed_logprobs: the same in the instructed context, of a combined alignment in the mixture of these; None
            also where the alignment has no instruction.
        model: the model that gave the response, where an engine asks; None where a RemoteEngine does.
        salt: SHA-256 of the request's cache salt, for evaluators that keep what they know: scores of one salt are not
            for requests of another, which could tell by the time that somebody was rated alike. None without one.
    """

    def __init__(
        self,
        messages: "Sequence[Mapping[str, object]]",
        response: str,
        alignment: Alignment,
        base_logprobs: "Tensor | None" = None,
        instructed_logprobs: "Tensor | None" = None,
        model: LocalModel | None = None,
    ) -> None:
        self.messages = messages
        self.response = response
        self.alignment = alignment
        self.base_logprobs = base_logprobs
        self.instructed_logprobs = instructed_logprobs
        self.model = model
        self.salt: bytes | None = None


@runtime_checkable
class Evaluator(Protocol):
    """Rates a base response for an alignment.

    Three attributes more are read where an evaluator has them: `needs_logprobs` (bool, default False) asks for the
    log-probabilities in EvaluationRequest; `needs_model` (bool, default False) says that it asks the `model` there,
    without which it cannot rate; and `name` (str, default the class name) identifies the evaluator in results, traces
    and cache keys, so it should tell everything that changes a score.
    """

    @property
    def needs_response(self) -> bool:
        """Whether a base response has to be decoded before this evaluator can rate."""
        ...

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate, or raise EvaluationError."""
        ...

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """Rate without blocking the event loop, or raise EvaluationError."""
        ...


def evaluator_name(evaluator: Evaluator) -> str:
    """The name that identifies an evaluator in results, traces and cache keys."""
    return str(getattr(evaluator, "name", type(evaluator).__qualname__))


def evaluator_identity(evaluator: Evaluator) -> str:
    """Its name where it has one; else the class name and an address, which no other evaluator shares."""
    name = evaluator_name(evaluator)
    return name if hasattr(evaluator, "name") else f"{name} at {id(evaluator):#x}"


def needs_logprobs(evaluator: Evaluator) -> bool:
    """Whether an evaluator wants the log-probabilities of the base response under both contexts."""
    return bool(getattr(evaluator, "needs_logprobs", False))


def needs_model(evaluator: Evaluator) -> bool:
    """Whether an evaluator asks the model that gave the base response."""
    return bool(getattr(evaluator, "needs_model", False))
