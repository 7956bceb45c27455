"""The choice among scores."""

import pytest

from sda_engine.choosing import choose


@pytest.mark.parametrize(
    ("scores", "base", "chosen"),
    [
        ([60, 80, 70], 50, 1),
        ([60, 80, 80], 50, 1),  # the first of equals
        ([None, None, 51], 50, 2),
        ([50, 49], 50, None),  # it has to be better than the base response
        ([None, None], 1, None),
        ([], 50, None),
    ],
)
def test_the_best_that_beats_the_base_response_is_chosen(scores, base, chosen):
    assert choose(scores, base) == chosen
