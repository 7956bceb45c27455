"""TextScorer: log-probabilities of given texts under the model's contexts, computed in company with all that runs."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext

import torch
from torch import Tensor

from sda_engine.alignment import Alignment, AlignmentLike, resolve_alignment
from sda_engine.config import Placement, Steering
from sda_engine.decoding import (
    STEERED,
    PromptState,
    RunsTasks,
    ScoreTask,
    SteeredScoreTask,
    TextScoring,
    TextSteering,
)
from sda_engine.errors import ConfigError, ContextLengthError
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, Score, needs_logprobs
from sda_engine.models import Adapter
from sda_engine.prompts import (
    BASE,
    INSTRUCTED,
    Contexts,
    Message,
    instructed_rows,
    make_contexts,
    read_messages,
    without_thought,
)
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import check_timeout, shown
from sda_engine.text_steering import text_steering
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
        adapter: what the model runs under.
    """

    def __init__(
        self,
        scheduler: RunsTasks,
        tokenizer: SafeTokenizer,
        context_window: int,
        *,
        description: Mapping[str, object],
        deadline: float | None = None,
        admitted: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._context_window = context_window
        self._description = description
        self._deadline = deadline
        self._admitted = admitted
        self._adapter = adapter

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON, for the keys of kept scores."""
        return dict(self._description)

    def continuation_logprobs(
        self, messages: Sequence[Message], continuations: Sequence[str], settings: RequestSettings | None = None
    ) -> Tensor:
        """How likely each text is as the beginning of the answer to a chat; see SteeringEngine.

        Args:
            messages: the chat.
            continuations: the texts.
            settings: alignment and steering; None for the base context alone.
        """
        return _sums(self._run(self._continuing(messages, _checked(continuations), settings)))

    async def acontinuation_logprobs(
        self, messages: Sequence[Message], continuations: Sequence[str], settings: RequestSettings | None = None
    ) -> Tensor:
        """The same for an event loop."""
        scoring = await asyncio.to_thread(self._continuing, messages, _checked(continuations), settings)
        return _sums(await self._arun(scoring))

    def _continuing(
        self, messages: Sequence[Message], texts: Sequence[str], settings: RequestSettings | None
    ) -> TextScoring:
        settings = RequestSettings() if settings is None else settings
        steering = text_steering(settings)
        return self._scoring(messages, settings.alignment, texts, settings.steering.placement, steering)

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
        if self._tokenizer.pictures is not None:
            messages = read_messages(messages, self._tokenizer.pictures)
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
        if self._tokenizer.pictures is not None:
            messages = await asyncio.to_thread(read_messages, messages, self._tokenizer.pictures)
        if needs_logprobs(evaluator):
            scoring = await asyncio.to_thread(self._scoring, messages, alignment, [response], placement)
            results = await self._arun(scoring)
        return self._request(messages, response, alignment, results)

    def _request(
        self, messages: Sequence[Message], response: str, alignment: Alignment, results: Sequence[Logprobs]
    ) -> EvaluationRequest:
        logprobs: Logprobs = results[0] if results else {}
        evaluation = EvaluationRequest(
            messages, response, alignment, logprobs.get(BASE), logprobs.get(INSTRUCTED), self
        )
        evaluation.salt = self._tokenizer.salt
        return evaluation

    def _run(self, scoring: TextScoring) -> list[Logprobs]:
        with self._taken_on(), scoring as tasks:
            for task in tasks:
                for _ in self._scheduler.events(task, self._deadline):
                    pass
        return scoring.results

    async def _arun(self, scoring: TextScoring) -> list[Logprobs]:
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
        steering: TextSteering | None = None,
    ) -> TextScoring:
        contexts = make_contexts(
            messages, alignment, self._tokenizer, placement=placement, context_window=self._context_window
        )
        contexts = without_thought(contexts, self._tokenizer)
        token_ids = [self._tokenizer.encode(text) for text in texts]
        longest = max(map(len, token_ids))
        if contexts.longest_prompt + longest > self._context_window:
            raise ContextLengthError(contexts.longest_prompt + longest, self._context_window)
        prompt = PromptState(
            contexts,
            longest,
            state_cost=self._scheduler.state_cost,
            adapter=self._adapter,
            salt=self._tokenizer.salt,
        )
        return TextScoring(prompt, [*self._tasks(prompt, token_ids, steering)])

    def _tasks(
        self, prompt: PromptState, texts: Sequence[Sequence[int]], steering: TextSteering | None
    ) -> Iterator[ScoreTask]:
        for place, token_ids in enumerate(texts):
            continues = self._admitted or place > 0
            if steering is None:
                yield ScoreTask(prompt, scored_rows(prompt.contexts), token_ids, continues=continues)
            else:
                yield SteeredScoreTask(prompt, steering, token_ids, continues=continues)


class ScoresTexts(ABC):
    """What SteeringEngine can do with texts that are given: how likely they are, and how an evaluator rates them."""

    @abstractmethod
    def _text_scorer(self, deadline: float | None, *, admitted: bool = False, adapter: str | None = None) -> TextScorer:
        """A scorer for one task, which ends at a deadline in seconds of time.monotonic(); see TextScorer."""

    def continuation_logprobs(
        self,
        messages: Sequence[Message],
        continuations: Sequence[str],
        *,
        alignment: AlignmentLike | None = None,
        steering: Steering = Steering(),  # noqa: B008 - frozen
        adapter: str | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        """How likely each text is as the beginning of the model's answer to a chat, steered if there is an alignment.

        The sum over a text's tokens of log P(token), P being the distribution at the token's place, given the text
        before it. Without an alignment that is the base distribution. With one it is the steered distribution before
        temperature, top-p and the like: that whose log-probabilities `Sampling.logprobs` asks for. With the policy
        "paper" it is eq. 5, normalised; "budget", which "auto" means here, spends the budget on the tokens of each text
        in their order. Amplification 0 gives the instructed distribution, where no budget runs out.

        The texts count as text for `Steering.scope`; outside the scope the base distribution decides. A text does not
        end the answer, so `reserve` adds nothing, and neither temperature schedule nor guard plays a part. A text has
        -inf where `plausibility` drops one of its tokens. A thought that the chat template opens is closed before it,
        empty: a text is what is said, not what is thought.

        The prompts are computed once. A text of one token costs nothing more, a longer one a forward pass.

        Args:
            messages: as for `generate`.
            continuations: the texts, none of them empty, tokenised as plain text.
            alignment: as for `generate`; None scores under the base context.
            steering: how strongly to steer. The score has to be known beforehand: by `amplification`, or FixedScore.
            adapter: as for `generate`.
            timeout: seconds, waiting time included; None waits for ever.

        Returns:
            (continuations,) float32, nats: the sum of the log-probabilities of each text's tokens.

        Raises:
            MessageError: the messages are malformed.
            ConfigError: an argument is; or the policy is "revise", which gives tokens no probability; or the evaluator
                needs a response to rate.
            ContextLengthError: prompt and text are longer than the context window.
            NumericalError: the model gave no usable distribution.
            RequestTimeoutError: the timeout passed.
        """
        settings = _settings(alignment, steering)
        return self._text_scorer(_deadline(timeout), adapter=adapter).continuation_logprobs(
            messages, continuations, settings
        )

    async def acontinuation_logprobs(
        self,
        messages: Sequence[Message],
        continuations: Sequence[str],
        *,
        alignment: AlignmentLike | None = None,
        steering: Steering = Steering(),  # noqa: B008 - frozen
        adapter: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Tensor:
        """`continuation_logprobs` for an event loop."""
        settings = _settings(alignment, steering)
        scorer = self._text_scorer(_deadline(timeout), adapter=adapter)
        return await scorer.acontinuation_logprobs(messages, continuations, settings)

    def rate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: AlignmentLike,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        adapter: str | None = None,
        timeout: float | None = None,
    ) -> Score:
        """Have an evaluator rate a response that is given: what it would say, were this the base response.

        Args:
            messages: as for `generate`.
            response: the text to rate, tokenised as plain text where the evaluator wants its log-probabilities.
            alignment: what it is rated for.
            evaluator: who rates.
            placement: where the instruction goes, see Steering.placement.
            adapter: as for `generate`.
            timeout: seconds for what the model computes; an evaluator has a limit of its own.

        Raises:
            EvaluationError, or what the evaluator raises: no score.
            MessageError, ConfigError, ContextLengthError, RequestTimeoutError: as for `generate`.
        """
        scorer, wanted = self._text_scorer(_deadline(timeout), adapter=adapter), _resolved(alignment)
        return evaluator.evaluate(scorer.evaluation_request(messages, response, wanted, evaluator, placement))

    async def arate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: AlignmentLike,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        adapter: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Score:
        """`rate` for an event loop."""
        scorer, wanted = self._text_scorer(_deadline(timeout), adapter=adapter), _resolved(alignment)
        request = await scorer.aevaluation_request(messages, response, wanted, evaluator, placement)
        return await evaluator.aevaluate(request)


def _sums(results: Sequence[Logprobs]) -> Tensor:
    return torch.stack([result[STEERED if STEERED in result else BASE].sum() for result in results])


def _settings(alignment: AlignmentLike | None, steering: Steering) -> RequestSettings:
    return RequestSettings.of(alignment, {"steering": steering}, whole=False)


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
