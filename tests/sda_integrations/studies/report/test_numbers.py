"""How figures are written."""

import math

import pytest

from sda_integrations.studies.report.numbers import (
    clean,
    clipped,
    difference,
    interval,
    multiple,
    probability,
    shown,
    significant,
    tick,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.634, "share", "63"),
        (1.0, "share", "100"),
        (-0.004, "share", "0"),
        (71.25, "points", "71.2"),
        (0.01234, "seconds", "0.012"),
        (4.0, "seconds", "4.0"),
        (126.0, "seconds", "130"),
        (0.0, "seconds", "0"),
        (74.4, "words", "74"),
        (0.126, "nats", "0.13"),
        (2.118, "number", "2.12"),
        (61.04, "number", "61.0"),
        (None, "share", "-"),
        (math.nan, "points", "-"),
    ],
)
def test_each_unit_has_its_decimals(value, unit, text):
    assert shown(value, unit) == text


def test_multiples_have_one_decimal():
    assert multiple(4.2, 1.84) == "2.3x"
    assert multiple(1.84, 1.84) == "1.0x"
    assert multiple(0.012, 1.0) == "0.012x"
    assert multiple(1.0, 0.0) == "-"
    assert multiple(None, 1.0) == "-"


def test_differences_have_a_sign_and_are_never_shown_as_nothing():
    assert difference(0.124, "share") == "+12"
    assert difference(-0.124, "share") == "-12"
    assert difference(0.004, "share") == "+0.40"
    assert difference(-0.02, "points") == "-0.020"


def test_both_ends_of_an_interval_have_the_same_decimals():
    assert interval(0.55, 0.71, "share") == "55 to 71"
    assert interval(9.5, 10.44, "number") == "9.5 to 10.4"
    assert interval(None, 1.0, "share") == ""


def test_p_has_three_decimals():
    assert [probability(p) for p in (None, 0.0004, 0.04567, 1.0)] == ["-", "<0.001", "0.046", "1.000"]


def test_significant_digits_survive_rounding_up():
    assert [significant(value) for value in (0.0999, 9.96, 99.6, 0.996)] == ["0.10", "10", "100", "1.0"]


def test_ticks_have_as_many_decimals_as_their_step():
    assert [tick(0.25, step, "share") for step in (0.05, 0.005)] == ["25", "25.0"]
    assert tick(0.2, 0.1, "nats") == "0.2"
    assert tick(70, 10, "points") == "70"


def test_hiding_characters_are_shown_and_joined_emoji_stay():
    assert clean("a\u202eb\x1b\n") == "a\\u202eb\\x1b\n"
    assert clean("👩\u200d💻") == "👩\u200d💻"


def test_a_cut_text_says_so():
    assert clipped("abcdef", 4) == "abc…"
    assert clipped("abcd", 4) == "abcd"
