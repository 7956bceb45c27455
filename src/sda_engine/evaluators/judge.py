"""JudgeEvaluator: what all evaluators share that ask a language model for a verdict, whatever it is reached by."""

import asyncio
import contextvars
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import NamedTuple, TypeGuard

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.breaker import CircuitBreaker
from sda_engine.evaluators.protocol import EvaluationRequest, EvaluatorUsage, Score
from sda_engine.evaluators.retries import make_retrying
from sda_engine.evaluators.verdict import RatingPrompt, Verdict, make_rating_prompt, parse_verdict, shortened
from sda_engine.settings import check_argument
from sda_engine.threads import event_loop_in_thread

_GRACE = 0.5  # seconds past the deadline that `evaluate` waits for its worker thread
_PER_PRICE = 1_000_000  # tokens
_SECONDS = "a number of seconds above 0 and at most 86400; the default is 30.0"
_PRICES = "a pair of numbers of at least 0, the prices of a million prompt and a million completion tokens, or None"


class JudgeReply(NamedTuple):
    """What a judge wrote, and the tokens that its server counted; 0 where it did not."""

    content: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


Ask = Callable[[RatingPrompt], Awaitable[JudgeReply]]


class JudgeEvaluator(ABC):
    """Asks a judge to rate the base response from 1 to 100, and takes nothing but a strict verdict for an answer.

    A fault raises EvaluationError and never becomes a score. After five failures in a row the judge is left alone but
    for one probe every 30 seconds; `breaker` tells.

    Args:
        timeout: seconds for one rating with all its samples, retries and waits; above 0, at most 86,400.
        max_retries: further calls per sample after rate limits, server errors, lost connections and unusable replies;
            at least 0.
        samples: ratings to ask for at once, of which the score is the median; at least 1.
        prices: what a million prompt tokens and a million completion tokens cost, for `Score.usage.cost`; None reports
            no cost.

    Attributes:
        breaker: the state of the judge, as far as it is known.

    Raises:
        ConfigError: an argument is out of range.
    """

    needs_response = True

    def __init__(
        self,
        *,
        timeout: float = 30.0,
        max_retries: int = 5,
        samples: int = 1,
        prices: tuple[float, float] | None = None,
    ) -> None:
        self._check("timeout", timeout, _is_number(timeout) and 0 < timeout <= 86_400, _SECONDS)
        self._check("max_retries", max_retries, _is_at_least(max_retries, 0), "a whole number of at least 0, e.g. 5")
        self._check("samples", samples, _is_at_least(samples, 1), "a whole number of at least 1, e.g. 1")
        self._check("prices", prices, prices is None or _are_prices(prices), _PRICES)
        self.timeout = float(timeout)
        self.max_retries = max_retries
        self.samples = samples
        self.prices = None if prices is None else (float(prices[0]), float(prices[1]))
        self.breaker = CircuitBreaker(self._judge)

    @property
    def name(self) -> str:
        """Everything that changes a score, and no secret: how results and cache keys call this evaluator."""
        samples = "" if self.samples == 1 else f", samples={self.samples}"
        return f"{type(self).__name__}({self._identity}{samples})"

    @property
    @abstractmethod
    def _identity(self) -> str:
        """What tells this judge from others, and no secret, in its evaluator's name."""

    @property
    @abstractmethod
    def _judge(self) -> str:
        """Who is asked, as the subject of a sentence."""

    @abstractmethod
    def _connect(self, *, blocking: bool) -> AbstractAsyncContextManager[Ask]:
        """A way to ask, for as long as the context lasts.

        Args:
            blocking: whether it is for `evaluate`, whose event loop ends with the rating.
        """

    @abstractmethod
    def _explain(self, error: Exception, calls: str) -> str | None:
        """What a failure after so many calls means and what to do about it; None where it is no failure but a bug."""

    def _hide(self, text: str) -> str:
        """A text of the judge's, without secrets that it may have echoed."""
        return text

    def _hide_in(self, error: Exception) -> None:  # noqa: B027 - most judges know no secret
        """The same for the texts of an exception and its causes."""

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request: `aevaluate`, in a worker thread with an event loop of its own.

        Only an event loop can hold a deadline against a server that drips bytes, since the timeouts of an
        HTTP client run from byte to byte. The thread makes that possible inside a running loop too. Ctrl-C ends the
        wait and drops the call.

        Raises:
            EvaluationError: no usable rating within the deadline; it carries the base response.
        """
        try:
            with event_loop_in_thread("sda-judge") as loop:
                ask = partial(asyncio.run_coroutine_threadsafe, self._rate(request, blocking=True), loop)
                rating = contextvars.Context().run(ask)  # the caller's callbacks and traces are not for the judge
                return rating.result(self.timeout + _GRACE)
        except TimeoutError as error:  # the thread is stuck where no loop can cancel it, e.g. in name resolution
            overdue = self._overdue([])
            overdue.base_response = request.response
            raise overdue from error

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request without blocking the event loop (asyncio).

        Raises:
            EvaluationError: no usable rating within the deadline; it carries the base response.
        """
        return await self._rate(request, blocking=False)

    async def _rate(self, request: EvaluationRequest, *, blocking: bool) -> Score:
        try:
            prompt = make_rating_prompt(request)
            with self.breaker.guard() as probing:
                rating = _Rating(prompt, 0 if probing else self.max_retries)
                return self._combined(await self._verdicts(rating, blocking=blocking), rating)
        except EvaluationError as error:
            error.base_response = request.response
            raise

    async def _verdicts(self, rating: "_Rating", *, blocking: bool) -> list[Verdict]:
        """All samples, asked for at the same time and bounded by one deadline."""
        try:
            async with asyncio.timeout(self.timeout), self._connect(blocking=blocking) as ask:
                samples = [self._sample(ask, rating) for _ in range(self.samples)]
                outcomes = await asyncio.gather(*samples, return_exceptions=True)
        except TimeoutError as error:
            raise self._overdue(rating.failures) from (rating.failures[-1] if rating.failures else error)
        verdicts = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            verdicts.append(outcome)
        return verdicts

    async def _sample(self, ask: Ask, rating: "_Rating") -> Verdict:
        """One verdict, retried within bounds."""
        retrying = make_retrying(rating.max_retries, self.timeout, rating.failures)
        try:
            verdict: Verdict = await retrying(self._ask_once, ask, rating)
        except Exception as error:
            calls = int(retrying.statistics["attempt_number"])
            explained = self._explain(error, f"{calls} call{'s' if calls > 1 else ''}")
            if explained is None:
                raise
            raise EvaluationError(explained) from error
        return verdict

    async def _ask_once(self, ask: Ask, rating: "_Rating") -> Verdict:
        rating.calls += 1
        try:
            reply = await ask(rating.prompt)
            rating.replies.append(reply)
            return parse_verdict(reply.content)
        except Exception as error:
            self._hide_in(error)
            raise

    def _combined(self, verdicts: list[Verdict], rating: "_Rating") -> Score:
        scores = tuple(verdict.score for verdict in verdicts)
        median = statistics.median(scores)
        nearest = min(verdicts, key=lambda verdict: abs(verdict.score - median))
        return Score(
            value=median,
            evaluator=self.name,
            reason=self._hide(nearest.reason),
            samples=scores if len(scores) > 1 else (),
            usage=rating.usage(self.prices),
        )

    def _overdue(self, failures: list[BaseException]) -> EvaluationError:
        last = f" The last failure: {shortened(str(failures[-1]))}." if failures else ""
        return EvaluationError(
            f"{self._judge} gave no usable verdict within timeout={self.timeout:g} seconds.{last} Raise "
            f"timeout, or choose a faster judge."
        )

    def _check(self, argument: str, value: object, legal: bool, must_be: str) -> None:
        check_argument(type(self).__name__, argument, value, legal, must_be)


class _Rating:
    """One rating on its way: what is asked, and what it has cost so far.

    Attributes:
        failures: those that another call followed.
        replies: all that came, usable or not.
    """

    def __init__(self, prompt: RatingPrompt, max_retries: int) -> None:
        self.prompt = prompt
        self.max_retries = max_retries
        self.calls = 0
        self.failures: list[BaseException] = []
        self.replies: list[JudgeReply] = []

    def usage(self, prices: tuple[float, float] | None) -> EvaluatorUsage:
        """What the calls have cost."""
        read = sum(reply.prompt_tokens for reply in self.replies)
        written = sum(reply.completion_tokens for reply in self.replies)
        cost = None if prices is None else (read * prices[0] + written * prices[1]) / _PER_PRICE
        return EvaluatorUsage(calls=self.calls, prompt_tokens=read, completion_tokens=written, cost=cost)


def unusable(judge: str, error: EvaluationError, calls: str) -> str:
    """What to say where a judge answered, but gave no verdict."""
    return f"{judge} gave no usable verdict in {calls}. {error} Choose a more reliable judge."


def count(value: object) -> int:
    """A token count that a server told; 0 for anything that is none."""
    return value if _is_at_least(value, 0) else 0


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_at_least(value: object, bound: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= bound


def _are_prices(value: object) -> bool:
    if not (isinstance(value, (tuple, list)) and len(value) == 2):
        return False
    return all(_is_number(price) and 0 <= price < math.inf for price in value)
