"""The revisions of a base response: decoded at once, held against what must stay, rated, and one of them chosen.

The policy "revise" (ours). Where the base response says something that must stay, it stands in the prompts of all
revisions, as an answer already given or as a text to rewrite, and the instruction in those of the instructed context.
So what it says is in reach of every revision, and steering decides how it is said. Where it says nothing of the kind,
answers of their own compete.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

import torch

from sda_engine.choosing import (
    FREE_REVISIONS,
    REVISIONS,
    Attempt,
    KeepCheck,
    Revision,
    Sight,
    choose,
    missing_values,
    recites,
)
from sda_engine.decoding import DecodedText, ReviseTask, find_repetition
from sda_engine.errors import EngineClosedError
from sda_engine.evaluators.contrastive import ContrastiveEvaluator
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, LocalModel, Score, evaluator_name
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED, Message
from sda_engine.rating import no_score
from sda_engine.request_settings import RequestSettings
from sda_engine.steering import Budget

_MARGIN = 12  # tokens that a revision may have beyond one and a half base responses: what needs more has gone astray
_OWN_MARGIN = 256  # and one that is an answer of its own
_UNDECIDED = 50.0  # the contrastive score of a text that the instruction makes neither likelier nor less likely
_UNLIKELY = 4.0  # nats a token that the base context may find an answer less likely than its own: else it is off topic


def revision_limit(base: DecodedText, most: int, sees: Sight) -> int:
    """Tokens that a revision of a base response may have, at most `most`."""
    return min(most, len(base.token_ids) * 3 // 2 + (_OWN_MARGIN if sees == "question" else _MARGIN))


def budget_of(revision: Revision) -> Budget:
    """What a revision may spend."""
    opening, reserve = (math.inf if nats is None else nats for nats in (revision.budget, revision.reserve))
    return Budget(opening, reserve, goes_on=revision.goes_on)


def revisions_of(settings: RequestSettings, base: DecodedText, values: Sequence[str]) -> Sequence[Revision]:
    """How a base response is decoded again; where it is empty, there is nothing to see but the question.

    Args:
        values: what it says that must stay. One that repeats itself is no example, whatever it says.
    """
    revisions = settings.steering.revisions
    if revisions is None:
        revisions = REVISIONS if values and find_repetition(base.token_ids) is None else FREE_REVISIONS
    return [revision for revision in revisions if base.text.strip() or revision.sees == "question"]


@dataclass
class Revising:
    """The revisions of one base response.

    Attributes:
        messages: the chat, normalised.
        settings: what the request asks for.
        base: the base response.
        values: what it says that must stay.
        base_score: the evaluator's rating of it, or the fallback taken in its place; None where nobody rated it.
        revisions: how it is decoded again.
        strengths: the strength of each revision.
        task: decodes them.
        chosen: which of them is the answer, once `choice` has settled it; None for the base response.
    """

    messages: Sequence[Message]
    settings: RequestSettings
    base: DecodedText
    values: Sequence[str]
    base_score: Score | None
    revisions: Sequence[Revision]
    strengths: Sequence[float]
    task: ReviseTask
    chosen: int | None = None
    _lost: list[str | None] = field(default_factory=list)
    _scores: list[float | None] = field(default_factory=list)
    _chooser: str | None = None

    @property
    def chooser(self) -> Evaluator:
        """Who rates the revisions: the user's own or the contrastive score, which asks nobody."""
        return self.settings.steering.chooser or ContrastiveEvaluator()

    def evaluations(self, model: LocalModel) -> list[EvaluationRequest | None]:
        """What the chooser is asked: of each revision, and of the base response at last.

        None for what it need not rate: revisions that have lost already, and a base response whose score is known.

        Raises:
            EngineClosedError: the engine was closed before the revisions were whole; the base response is in the error.
        """
        revisions = self.task.results()
        if any(revision.finish_reason is None for revision in revisions):
            raise EngineClosedError(
                "The engine was closed while the base response was revised. Ask again, of an engine that is open.",
                partial=self.base.text,
            )
        self._lost = [self._why_lost(revision) for revision in revisions]
        asked: list[EvaluationRequest | None] = [
            self._request(revision, model) if lost is None else None
            for revision, lost in zip(revisions, self._lost, strict=True)
        ]
        return [*asked, self._request(self.base, model) if self._rates_base else None]

    def _request(self, answer: DecodedText, model: LocalModel) -> EvaluationRequest:
        assert self.settings.alignment is not None
        logprobs = _logprobs(answer.row_logprobs)
        asked = EvaluationRequest(self.messages, answer.text, self.settings.alignment, model=model, **logprobs)
        asked.salt = self.settings.salt
        return asked

    @property
    def _rates_base(self) -> bool:
        """Whether the chooser has to rate the base response too: the contrastive score has a middle of its own."""
        return not isinstance(self.chooser, ContrastiveEvaluator) and not self._base_is_rated

    @contextmanager
    def choice(self, evaluations: Sequence[EvaluationRequest | None]) -> Iterator[list[Score | None]]:
        """Around the ratings: takes a score for each of `evaluations`, and settles which revision is the answer.

        Where the chooser fails, the contrastive score decides, or what it raised goes on as an error.

        Raises:
            EvaluationError: the chooser failed, and Steering.on_evaluator_error is "raise".
        """
        scores: list[Score | None] = []
        try:
            yield scores
        except Exception as error:
            if self.settings.steering.on_evaluator_error == "raise":
                raise no_score(self.chooser, error, self.base.text) from error
            contrast = ContrastiveEvaluator()
            rated = [None if one is None else contrast.evaluate(one) for one in evaluations[:-1]]
            self._choose([*rated, None], contrast)
        else:
            self._choose(scores, self.chooser)

    def _choose(self, scores: Sequence[Score | None], chooser: Evaluator) -> None:
        """Settle which is the answer by what a chooser said of the revisions, and of the base response at last."""
        *values, base = [None if score is None else score.value for score in scores]
        if base is None and chooser is self.chooser and self._base_is_rated and self.base_score is not None:
            base = self.base_score.value
        self._scores, self._chooser = values, evaluator_name(chooser)
        self.chosen = choose(values, _UNDECIDED if base is None else base)

    @property
    def _base_is_rated(self) -> bool:
        """Whether the base response has a score of the chooser's."""
        known = self.base_score is not None and self.base_score.fallback is None
        return known and self.chooser is self.settings.steering.evaluator

    @property
    def answer(self) -> DecodedText:
        """The revision that was chosen, or the base response."""
        return self.base if self.chosen is None else self.task.results()[self.chosen]

    @property
    def strength(self) -> float:
        """What the answer was steered with."""
        return 0.0 if self.chosen is None else self.strengths[self.chosen]

    @property
    def dropped_tokens(self) -> int:
        """Tokens of the revisions that are not the answer."""
        results = enumerate(self.task.results())
        return sum(len(revision.token_ids) for place, revision in results if place != self.chosen)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What became of each revision."""
        parts = zip(self.revisions, self.task.results(), self._lost, self._scores, strict=True)
        return tuple(
            _attempt(*part, strength=self.strengths[place], chosen=place == self.chosen, chooser=self._chooser)
            for place, part in enumerate(parts)
        )

    def _why_lost(self, revision: DecodedText) -> str | None:
        """Why a revision cannot be the answer; None where it can."""
        if not revision.text.strip():
            return "it is empty"
        if revision.finish_reason == "length" and self.base.finish_reason != "length":
            return "it did not come to an end"
        if repeated := find_repetition(revision.token_ids):
            return f"it repeats itself: {repeated}"
        assert self.settings.alignment is not None
        for instruction in self.settings.alignment.instructions:
            if recites(revision.text, instruction, self.base.text):
                return "it recites the instruction"
        keep = self.settings.steering.keep
        if callable(keep) and not keep(KeepCheck(self.messages, self.base.text, revision.text)):
            return "the rule for what must stay refuses it"
        if keep == "values" and (lost := missing_values(revision.text, self.values)):
            return f"it lost {', '.join(lost)}"
        if keep == "values" and not self.values and self._strays(revision):
            return "the plain chat makes it far too unlikely"
        return None

    def _strays(self, revision: DecodedText) -> bool:
        """Whether the base context finds a revision so much less likely than its own answer that it is off topic."""
        own, there = (answer.row_logprobs.get(BASE) for answer in (self.base, revision))
        return bool(own and there and fmean(there) < fmean(own) - _UNLIKELY)


def _attempt(
    revision: Revision,
    answer: DecodedText,
    lost: str | None,
    score: float | None,
    *,
    strength: float,
    chosen: bool,
    chooser: str | None,
) -> Attempt:
    return Attempt(
        text=answer.text,
        strength=strength,
        revision=revision,
        lost=lost,
        score=score,
        chooser=None if score is None else chooser,
        chosen=chosen,
    )


def _logprobs(rows: Mapping[str, Sequence[float]]) -> dict[str, torch.Tensor]:
    """The log-probabilities of a revision without and with the alignment; avoided text counts as what is without."""
    if len(rows) < 2:  # a base response
        return {}
    without, within = (BASE, INSTRUCTED) if INSTRUCTED in rows else (AVOIDED, BASE)
    return {"base_logprobs": torch.tensor(rows[without]), "instructed_logprobs": torch.tensor(rows[within])}
