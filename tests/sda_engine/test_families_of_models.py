"""Tiny models of forty families decode exactly or are refused; `benchmarks/census.py` has all types."""

import re

import pytest

from benchmarks.census_models.examining import Size, examine
from tests.sda_engine.families_of_models import FAMILIES

QUICK = Size(alone=4, together=2, questions=4)  # still rows of three, a base response, a repeat


def test_there_are_forty_families():
    assert len({(family.model_type, family.group) for family in FAMILIES}) == 40


@pytest.mark.filterwarnings("ignore::sda_engine.models.ContextWindowWarning")  # indexes reach no further
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_decodes_exactly_or_is_refused(family):
    found = examine(family.model_type, family.group, QUICK)
    if family.runner is None:
        assert (found.verdict, found.runner) == ("refused", ""), found
        assert re.search(family.refused, found.reason), found
    else:
        assert (found.verdict, found.runner) == ("exact", family.runner), found
        assert found.distinct > 1, "an answer that repeats one token tells little"
