"""Lengths and repetitions that a reader can count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import collapsed, distinct, repetition, word_count

PROSE = (
    "The library by the river opens at ten. Bring a card, and a pencil for the reading room on the second floor. "
    "Books are lent for three weeks; films go home for one. Children hear a story every Wednesday."
)


def test_words_are_runs_of_letters_and_digits():
    assert word_count("Don't panic: 42 is near.") == 6
    assert word_count(" - ") == 0


def test_repetition_is_the_share_of_4_grams_that_came_before():
    assert repetition("a b c d e f") == 0
    assert repetition("A b c d, a B c d!") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("no " * 13) == pytest.approx(9 / 10)


@pytest.mark.parametrize("text", ["", "one two three"])
def test_a_text_too_short_for_4_grams_repeats_nothing(text):
    assert repetition(text) == 0


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_repetition_is_a_share(words):
    assert 0 <= repetition(" ".join(words)) < 1


@pytest.mark.parametrize(
    "text", ["", " \n", "!!!!!!!!!!", "the end " * 20, "no! " * 40, "a" * 40, ", ".join(["yes"] * 30), PROSE * 4]
)
def test_a_collapsed_text_is_seen(text):
    assert collapsed(text)


@pytest.mark.parametrize(
    "text", [PROSE, "Yes.", "42", f"Title\n{'-' * 60}\n{PROSE}", "Ha ha ha ha!", "| a | b |\n|---|---|\n| 1 | 2 |"]
)
def test_an_ordinary_text_has_not_collapsed(text):
    assert not collapsed(text)


def test_distinct_counts_different_n_grams_over_all_texts():
    assert distinct(["a b c", "A b d"]) == 3 / 4  # ab bc ab bd
    assert distinct(["a b c", "a b d"], size=1) == 4 / 6
    assert distinct(["one", ""]) == 0


def test_a_size_below_one_is_refused():
    with pytest.raises(ConfigError, match="cannot be 0: it must be 1 or more"):
        distinct(["a b"], size=0)
