"""TextScorer: log-probabilities of given texts under the model's contexts, computed in company with all that runs."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext

import torch
from torch import Tensor

from sda_engine.alignment import Alignment, AlignmentLike, resolve_alignment
from sda_engine.config import Placement
from sda_engine.decoding import PromptState, Scheduler, ScoreTask
from sda_engine.errors import ConfigError, ContextLengthError
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, Score, needs_logprobs
from sda_engine.prompts import BASE, INSTRUCTED, Contexts, Message, instructed_rows, make_contexts
from sda_engine.settings import check_timeout, shown
from sda_engine.tokens import SafeTokenizer

Logprobs = Mapping[str, Tensor]
"""Row -> (tokens,) float32, nats."""


def scored_rows(contexts: Contexts) -> tuple[str, ...]:
    """The rows under which evaluators want a response's log-probabilities: base, and instructed where there are any."""
    return (BASE, *instructed_rows(contexts.tails))


class TextScorer:
    """Scores texts as answers to a chat. The model that evaluators may ask is one.

    Args:
        scheduler: runs the forward passes.
        tokenizer: turns texts into tokens; special tokens in a text are not recognised.
        context_window: tokens of prompt and text together.
        description: what identifies the model, as plain JSON.
        deadline: time.monotonic() seconds for all that is asked of it; None waits for ever.
        admitted: whether it works for a request that has been taken on, and need not queue as a new one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: SafeTokenizer,
        context_window: int,
        *,
        description: Mapping[str, object],
        deadline: float | None = None,
        admitted: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._context_window = context_window
        self._description = description
        self._deadline = deadline
        self._admitted = admitted

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON, for the keys of kept scores."""
        return dict(self._description)

    def continuation_logprobs(self, messages: Sequence[Message], continuations: Sequence[str]) -> Tensor:
        """How likely each text is as the beginning of the answer to a chat; see SteeringEngine."""
        scoring = self._scoring(messages, None, _checked(continuations))
        return _sums(self._run(scoring))

    async def acontinuation_logprobs(self, messages: Sequence[Message], continuations: Sequence[str]) -> Tensor:
        """The same for an event loop."""
        scoring = await asyncio.to_thread(self._scoring, messages, None, _checked(continuations))
        return _sums(await self._arun(scoring))

    def evaluation_request(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: Alignment,
        evaluator: Evaluator,
        placement: Placement = "after_query",
    ) -> EvaluationRequest:
        """What an evaluator is asked about a response that is given."""
        results: Sequence[Logprobs] = ()
        if needs_logprobs(evaluator):
            results = self._run(self._scoring(messages, alignment, [response], placement))
        return self._request(messages, response, alignment, results)

    async def aevaluation_request(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: Alignment,
        evaluator: Evaluator,
        placement: Placement = "after_query",
    ) -> EvaluationRequest:
        """The same for an event loop."""
        results: Sequence[Logprobs] = ()
        if needs_logprobs(evaluator):
            scoring = await asyncio.to_thread(self._scoring, messages, alignment, [response], placement)
            results = await self._arun(scoring)
        return self._request(messages, response, alignment, results)

    def _request(
        self, messages: Sequence[Message], response: str, alignment: Alignment, results: Sequence[Logprobs]
    ) -> EvaluationRequest:
        logprobs: Logprobs = results[0] if results else {}
        return EvaluationRequest(messages, response, alignment, logprobs.get(BASE), logprobs.get(INSTRUCTED), self)

    def _run(self, scoring: "_Scoring") -> list[Logprobs]:
        with self._taken_on(), scoring as tasks:
            for task in tasks:
                for _ in self._scheduler.events(task, self._deadline):
                    pass
        return scoring.results

    async def _arun(self, scoring: "_Scoring") -> list[Logprobs]:
        with self._taken_on(), scoring as tasks:
            for task in tasks:
                async with aclosing(self._scheduler.aevents(task, self._deadline)) as events:
                    async for _ in events:
                        pass
        return scoring.results

    def _taken_on(self) -> AbstractContextManager[None]:
        return nullcontext() if self._admitted else self._scheduler.admitted()

    def _scoring(
        self,
        messages: Sequence[Message],
        alignment: Alignment | None,
        texts: Sequence[str],
        placement: Placement = "after_query",
    ) -> "_Scoring":
        contexts = make_contexts(
            messages, alignment, self._tokenizer, placement=placement, context_window=self._context_window
        )
        token_ids = [self._tokenizer.encode(text) for text in texts]
        longest = max(map(len, token_ids))
        if contexts.longest_prompt + longest > self._context_window:
            raise ContextLengthError(contexts.longest_prompt + longest, self._context_window)
        return _Scoring(PromptState(contexts, longest), token_ids, admitted=self._admitted)


class ScoresTexts(ABC):
    """What SteeringEngine can do with texts that are given: how likely they are, and how an evaluator rates them."""

    @abstractmethod
    def _text_scorer(self, deadline: float | None, *, admitted: bool = False) -> TextScorer:
        """A scorer for one task, which ends at a deadline in seconds of time.monotonic(); see TextScorer."""

    def continuation_logprobs(
        self, messages: Sequence[Message], continuations: Sequence[str], *, timeout: float | None = None
    ) -> Tensor:
        """How likely each text is as the beginning of the model's own answer to a chat. Nothing is steered.

        The prompt is computed once. A text of one token costs nothing more, a longer one a forward pass.

        Args:
            messages: as for `generate`.
            continuations: the texts, none of them empty.
            timeout: seconds, waiting time included; None waits for ever.

        Returns:
            (continuations,) float32, nats: the sum of the log-probabilities of each text's tokens.

        Raises:
            MessageError, ConfigError: the input is malformed.
            ContextLengthError: prompt and text are longer than the context window.
            RequestTimeoutError: the timeout passed.
        """
        return self._text_scorer(_deadline(timeout)).continuation_logprobs(messages, continuations)

    async def acontinuation_logprobs(
        self,
        messages: Sequence[Message],
        continuations: Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Tensor:
        """`continuation_logprobs` for an event loop."""
        return await self._text_scorer(_deadline(timeout)).acontinuation_logprobs(messages, continuations)

    def rate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: AlignmentLike,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        timeout: float | None = None,
    ) -> Score:
        """Have an evaluator rate a response that is given: what it would say, were this the base response.

        Args:
            messages: as for `generate`.
            response: the text to rate, tokenised as plain text where the evaluator wants its log-probabilities.
            alignment: what it is rated for.
            evaluator: who rates.
            placement: where the instruction goes, see Steering.placement.
            timeout: seconds for what the model computes; an evaluator has a limit of its own.

        Raises:
            EvaluationError, or what the evaluator raises: no score.
            MessageError, ConfigError, ContextLengthError, RequestTimeoutError: as for `generate`.
        """
        scorer, wanted = self._text_scorer(_deadline(timeout)), _resolved(alignment)
        return evaluator.evaluate(scorer.evaluation_request(messages, response, wanted, evaluator, placement))

    async def arate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: AlignmentLike,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Score:
        """`rate` for an event loop."""
        scorer, wanted = self._text_scorer(_deadline(timeout)), _resolved(alignment)
        request = await scorer.aevaluation_request(messages, response, wanted, evaluator, placement)
        return await evaluator.aevaluate(request)


class _Scoring:
    """Texts on one prompt, a task each: the prompt is computed once, and its rows are let go of at the end.

    Attributes:
        results: per text row -> (tokens,) nats, once its task has finished.
    """

    def __init__(self, prompt: PromptState, texts: Sequence[Sequence[int]], *, admitted: bool) -> None:
        self._prompt = prompt
        self._texts = texts
        self._admitted = admitted
        self.results: list[Logprobs] = []

    def __enter__(self) -> Iterator[ScoreTask]:
        return self._tasks()

    def __exit__(self, *_: object) -> None:
        self._prompt.release()

    def _tasks(self) -> Iterator[ScoreTask]:
        for token_ids in self._texts:
            continues = self._admitted or bool(self.results)
            task = ScoreTask(self._prompt, scored_rows(self._prompt.contexts), token_ids, continues=continues)
            yield task
            self.results.append(task.result())


def _sums(results: Sequence[Logprobs]) -> Tensor:
    return torch.stack([result[BASE].sum() for result in results])


def _checked(continuations: Sequence[str]) -> Sequence[str]:
    texts = isinstance(continuations, Sequence) and not isinstance(continuations, str)
    if not texts or not continuations or not all(isinstance(text, str) and text for text in continuations):
        raise ConfigError(
            f"continuations cannot be {shown(continuations)}: it must be a list of at least one text, none of them "
            f"empty, e.g. ['yes', 'no']."
        )
    return continuations


def _resolved(alignment: AlignmentLike) -> Alignment:
    resolved = resolve_alignment(alignment)
    if resolved is None:
        raise ConfigError("A response cannot be rated for alignment=None: name what it is rated for, e.g. 'honesty'.")
    return resolved


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + check_timeout(timeout)
