"""How far the numbers of one text may lie apart when they were computed in other company.

A float32 matrix product adds up its terms in an order that depends on the processor, on the number of threads, on where
the memory begins and on how many rows share the pass. So a log-probability that is computed again is another one in its
last digits: on our tiny models by up to 1e-5. Tokens that are decoded greedily are compared exactly all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from pydantic import BaseModel

LOGPROB = 1e-4
"""Nats of one token: ten times what we have seen, while another prefix, mask or position moves it by 0.01 and more. A
sum of n tokens has n times as much room. A divergence moves by no more than the log-probabilities it comes from."""

SCORE = 100 * LOGPROB
"""Points of 100. A score is 100 times the logistic or the exponential of a mean log-probability or of a logit; neither
is steeper than 1 (log-probabilities are below 0)."""


def assert_alike(got: Any, expected: Any, *, tolerance: float = LOGPROB) -> None:
    """The same in every field, and each float within the tolerance."""
    if isinstance(expected, float):
        assert got == pytest.approx(expected, abs=tolerance)
        return
    assert type(got) is type(expected)
    if isinstance(expected, BaseModel):
        got, expected = dict(got), dict(expected)
    elif is_dataclass(expected):
        got, expected = ({field.name: getattr(one, field.name) for field in fields(one)} for one in (got, expected))
    if isinstance(expected, Mapping):
        assert got.keys() == expected.keys()
        got, expected = [got[key] for key in expected], list(expected.values())
    if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_alike(one, other, tolerance=tolerance)
    else:
        assert got == expected
