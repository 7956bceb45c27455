"""Requirement 5: what a judge meant is read, or nothing is."""

import re
from collections.abc import Callable

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.verdict import parse_verdict
from tests.sda_engine.evaluators.judges import GOOD

TRICKY: dict[str, float | None] = {
    GOOD: 85,
    '{"score": 85, "reason": "It names 2 of 3 facts."}': 85,
    '{"reason": "It names 2 of 3 facts.", "score": 85}': 85,
    '{"reason": "100% wrong", "score": 3}': 3,
    '{"reason": "it asks for {\\"score\\": 100}", "score": 4}': 4,
    '{"reason": "it says [\'Score\':\'100\']", "score": 4}': 4,
    '{"reason": "from 1 to 100", "score": 1e1}': 10,
    '{"reason": "", "score": 0.5}': 0.5,
    "['Score':'35']": 35,
    "['Score':'35'] or ['Score':'53']": None,
    "['Score':'100'] is what it asks for; I give ['Score':'5']": 5,
    "The form is ['Score':'1-100']. ['Score':'20']": 20,
    "['Score':'NaN'] after 3 tries": None,
    "['Score':'-1']": None,
    "['Score':'350']": None,
    "['Score':'8.5'] out of 10": 85,
    "['Score':'7/10']": 70,
    "Score: 85": 85,
    "85": 85,
    "0.85": None,
    "85/100": 85,
    "8/10": 80,
    "17 of 20": 85,
    "On a scale from 1 to 100: 15": 15,
    "Between 60 and 70": None,
    "Between 60 and 70, so 65.": 65,
    "1. It is short. 2. It is wrong. Score: 12": 12,
    "Score: 12. It names 3 of 9 facts.": 12,
    "In 1969 it was 384,400 km, so this is right: 90": 90,
    "I cannot rate this response, error 429.": None,
    "Rate limit: try again in 20 seconds": None,
    "Not 100, rather 40.": 40,
    "minus 85": None,
    "eighty-five": 85,
    "８５": 85,  # noqa: RUF001 - full-width digits
    "<think>maybe 20, no, 30</think>40": 40,
    '<think>{"score": 20}</think>{"reason": "fine", "score": 85}': 85,
    '```json\n{"reason": "v2 is better", "score": 85}\n```': 85,
    '{"reason": "fine", "score": 20, "score": 85}': None,
    '{"reason": "fine", "score": "85"}': 85,
    '{"reason": "fine", "score": 85, "confidence": 20}': 85,
    '{"reason": "fine", "score": [80, 90]}': None,
    '{"reason": "fine", "score": true}': None,
    '{"reason": "fine", "score": 8,5}': None,
    '{"reason": "fine", "score": 1e999}': None,
    '{"reason": "cut off at 50 tokens", "score": 8': None,
    '{"reason": "fine", "score": 101}': None,
    '{"example": {"score": 100}, "score": 6}': 6,
    "{'reason': 'fine', 'score': 85}": 85,
    '{"reason": "a", "score": 20}\n{"reason": "b", "score": 85}': None,
}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def first_number(reply: str) -> float | None:
    return float(found[0]) if (found := NUMBER.search(reply)) else None


def last_number(reply: str) -> float | None:
    return float(found[-1]) if (found := NUMBER.findall(reply)) else None


def lax_json(reply: str) -> float | None:
    """What stands behind the first "score", in anything that resembles JSON."""
    return float(found[1]) if (found := re.search(r"""["']score["']\s*:\s*["']?(-?[\d.]+)""", reply)) else None


def published(reply: str) -> float | None:
    """The paper's code: its own form, else the first number of the reply."""
    return float(found[1]) if (found := re.search(r"\['Score':\s*'([\d.]+)'\]", reply)) else first_number(reply)


def strict(reply: str) -> float | None:
    try:
        return parse_verdict(reply).score
    except EvaluationError:
        return None


def silently_wrong(parse: Callable[[str], float | None]) -> int:
    """Replies from which a legal score is read that the judge did not mean."""
    read = {reply: parse(reply) for reply in TRICKY}
    return sum(score is not None and 0 < score <= 100 and score != TRICKY[reply] for reply, score in read.items())


def test_the_corpus_has_fifty_replies_of_which_the_strict_parser_misreads_none_and_naive_ones_many() -> None:
    assert len(TRICKY) >= 50
    assert silently_wrong(strict) == 0
    naive = {parse.__name__: silently_wrong(parse) for parse in (published, first_number, last_number, lax_json)}
    assert naive == {"published": 30, "first_number": 31, "last_number": 20, "lax_json": 8}


def test_the_strict_parser_reads_each_reply_that_is_a_whole_verdict() -> None:
    assert [strict(reply) for reply in TRICKY][:8] == [85, 85, 85, 3, 4, 4, 10, 0.5]
