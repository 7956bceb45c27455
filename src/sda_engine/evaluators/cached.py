"""CachedEvaluator: scores of an evaluator are kept, so that nobody pays twice for the same rating."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import (
    EvaluationRequest,
    Evaluator,
    LocalModel,
    Score,
    evaluator_identity,
    needs_logprobs,
    needs_model,
)
from sda_engine.evaluators.score_store import CacheStatistics, ScoreStore
from sda_engine.pictures import Picture
from sda_engine.settings import check_argument

if TYPE_CHECKING:
    from torch import Tensor

_check = partial(check_argument, "CachedEvaluator")
_KEY_VERSION = 1  # to be raised whenever the same key would come to mean another score
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class CachedEvaluator:
    """Keeps the scores of another evaluator and asks it only for what it has not rated yet.

    A score is found again by a SHA-256 of everything that the evaluator is shown: messages, response, alignment,
    the evaluator's own name, and the bits of the log-probabilities where it needs them (rounded ones could be
    found under two keys all the same). The model counts, by its `describe()`, for scores for which the evaluator
    asked it; a model without `describe()` gives scores that are not kept. A model that you built yourself is
    another one in each process, since nothing tells its weights. Requests of different cache salts find none of each
    other's scores.

    A score from the cache is the one that was given then, except that `usage` is None, since it cost nothing;
    `statistics` tells how many there were. Failures are not kept, nor are fallbacks, nor ensembles' scores with
    failed members. While the evaluator rates no lock is held, so two equal requests at the same time both ask it.

    A file may be shared by threads and processes. It holds hashes and scores with their reasons (which may quote
    what was rated), no messages and no API keys, and is made readable by its owner alone. A file that is locked,
    broken or not writable fails no request: ratings go on without it, a warning is logged once, and it is tried
    again after 30 seconds.

    A pickle or deep copy carries no scores: it opens the same file, or begins anew in memory.

    Args:
        evaluator: who rates. With `path` it needs a `name` that means the same in every process.
        path: the SQLite file, made on the first rating, in a folder that is made too. None keeps the scores in memory.
        max_entries: scores to keep, at least 1; the least recently used go first.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self, evaluator: Evaluator, path: str | os.PathLike[str] | None = None, *, max_entries: int = 100_000
    ) -> None:
        rates = isinstance(evaluator, Evaluator) and not isinstance(evaluator, type)
        _check("evaluator", evaluator, rates, "an evaluator, e.g. OpenAIEvaluator('gpt-4.1')")
        legal = path is None or (isinstance(path, (str, os.PathLike)) and str(path).strip() not in ("", "."))
        _check("path", path, legal, "the path of a file, or None for a cache in memory")
        whole = isinstance(max_entries, int) and not isinstance(max_entries, bool)
        _check("max_entries", max_entries, whole and max_entries >= 1, "a whole number of at least 1")
        if path is not None and _ADDRESS.search(evaluator_identity(evaluator)):
            raise ConfigError(
                f"CachedEvaluator cannot keep the scores of {evaluator_identity(evaluator)} in a file, since that "
                f"memory address means nothing in another process. Give the evaluator a `name` that tells everything "
                f"that changes a score, or leave out path."
            )
        self.evaluator = evaluator
        self.path = None if path is None else Path(path).expanduser().absolute()
        self.max_entries = max_entries
        self._store = ScoreStore(self.path, max_entries)

    @property
    def needs_response(self) -> bool:
        """Whether the evaluator needs a base response."""
        return self.evaluator.needs_response

    @property
    def needs_logprobs(self) -> bool:
        """Whether the evaluator wants the log-probabilities of the base response."""
        return needs_logprobs(self.evaluator)

    @property
    def needs_model(self) -> bool:
        """Whether the evaluator asks the model that gave the base response."""
        return needs_model(self.evaluator)

    @property
    def name(self) -> str:
        """The evaluator's name, since a cache changes no score."""
        return evaluator_identity(self.evaluator)

    @property
    def statistics(self) -> CacheStatistics:
        """Hits, misses and faults so far."""
        return self._store.statistics

    def __repr__(self) -> str:
        path = "" if self.path is None else f", {str(self.path)!r}"
        return f"CachedEvaluator({self.name}{path}, max_entries={self.max_entries})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_store"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._store = ScoreStore(self.path, self.max_entries)

    def close(self) -> None:
        """Let go of the database. Ratings go on without it."""
        self._store.close()

    def evaluate(self, request: EvaluationRequest) -> Score:
        """The kept score of a request, or a new one from the evaluator.

        Raises:
            EvaluationError, or what the evaluator raises: no score.
        """
        rating, kept = self._look_up(request)
        if kept is not None:
            return kept
        score = self.evaluator.evaluate(rating.request)
        self._store.put(rating.key_of(score), score)
        return score

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The same for an event loop, which waits for no database (asyncio)."""
        rating, kept = await asyncio.to_thread(self._look_up, request)
        if kept is not None:
            return kept
        score = await self.evaluator.aevaluate(rating.request)
        await asyncio.to_thread(self._store.put, rating.key_of(score), score)
        return score

    def _look_up(self, request: EvaluationRequest) -> "tuple[_Rating, Score | None]":
        rating = _Rating(self.evaluator, request)
        return rating, self._store.get(rating.keys)


class _Rating:
    """One request: what the evaluator is shown, and the keys of a score that depends on no more than that.

    Attributes:
        request: what the evaluator is shown. Log-probabilities that it does not need are left out, for no key tells
            of them.
        keys: under which a score may be found: without the model, and with it.
    """

    def __init__(self, evaluator: Evaluator, request: EvaluationRequest) -> None:
        self._model = None if request.model is None else _WatchedModel(request.model)
        self.request = EvaluationRequest(request.messages, request.response, request.alignment, model=self._model)
        self.request.salt = request.salt
        if needs_logprobs(evaluator):
            self.request.base_logprobs = request.base_logprobs
            self.request.instructed_logprobs = request.instructed_logprobs
        self._key = _make_key(evaluator, self.request)
        self._model_key = None if request.model is None else _make_model_key(self._key, request.model)
        self.keys = [key for key in (self._key, self._model_key) if key is not None]

    def key_of(self, score: object) -> bytes | None:
        """Where to keep the evaluator's score; None for what is not to be kept."""
        if type(score) is not Score or not _is_whole(score):
            return None
        return self._model_key if self._model is not None and self._model.asked else self._key


class _WatchedModel:
    """Passes everything on to a model, and notes that the evaluator asked it: the score may depend on the model."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self.asked = False

    def continuation_logprobs(self, messages: Sequence[Mapping[str, object]], continuations: Sequence[str]) -> "Tensor":
        self.asked = True
        return self._model.continuation_logprobs(messages, continuations)

    async def acontinuation_logprobs(
        self, messages: Sequence[Mapping[str, object]], continuations: Sequence[str]
    ) -> "Tensor":
        self.asked = True
        return await self._model.acontinuation_logprobs(messages, continuations)

    def __getattr__(self, name: str) -> object:
        self.asked = True
        return getattr(self._model, name)


def _is_whole(score: Score) -> bool:
    """Whether a score is a real rating in which everybody took part."""
    rated = score.value is not None and score.fallback is None and not score.failures
    return rated and all(_is_whole(member) for member in score.members)


def _make_key(evaluator: Evaluator, request: EvaluationRequest) -> bytes | None:
    """SHA-256 of everything that the evaluator is shown, but for the model; None where it cannot be written down."""
    return _digest(
        {
            "version": _KEY_VERSION,
            "evaluator": evaluator_identity(evaluator),
            "messages": request.messages,
            "response": request.response,
            "alignment": request.alignment.model_dump(),
            "logprobs": [_tensor_digest(request.base_logprobs), _tensor_digest(request.instructed_logprobs)],
            "has_model": request.model is not None,
            **({} if request.salt is None else {"salt": request.salt.hex()}),
        }
    )


def _make_model_key(key: bytes | None, model: LocalModel) -> bytes | None:
    describe = getattr(model, "describe", None)
    return None if key is None or describe is None else _digest({"key": key.hex(), "model": describe()})


def _digest(content: object) -> bytes | None:
    """SHA-256 of a canonical JSON; None for what JSON cannot tell apart from other things, e.g. objects."""
    try:
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_as_plain)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _as_plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Picture):
        return {"sha256 of the picture": value.digest}
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _tensor_digest(tensor: "Tensor | None") -> str | None:
    """Of the exact values, whatever their precision and device."""
    return None if tensor is None else hashlib.sha256(tensor.detach().cpu().double().numpy().tobytes()).hexdigest()
