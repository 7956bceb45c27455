"""Made-up requests: their answers stand in them, and a seed gives the same ones again."""

import json

import pytest

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import (
    BOOK_TABLE,
    PROFILE_SCHEMA,
    REPORTING,
    TUNING,
    fact_questions,
    holds,
    profiles,
    table_bookings,
    valid_call,
    valid_json,
)

WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MAKERS = [fact_questions, table_bookings, profiles]


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_repeats_and_another_one_does_not(make):
    assert make(20, seed=1) == make(20, seed=1)
    assert make(20, seed=1) != make(20, seed=2)


@pytest.mark.parametrize("make", MAKERS)
def test_more_requests_begin_with_the_same_ones(make):
    assert make(20, seed=3)[:7] == make(7, seed=3)


@pytest.mark.parametrize("make", MAKERS)
def test_fewer_than_one_is_refused(make):
    with pytest.raises(ConfigError, match="count cannot be 0: it must be 1 or more"):
        make(0, seed=1)


@pytest.mark.parametrize("half", [TUNING, REPORTING])
def test_the_value_stands_in_the_documents_and_not_in_the_question(half):
    for question in fact_questions(60, seed=4, half=half):
        assert holds(question.prompt, question.value)
        assert question.question in question.prompt
        assert not holds(question.question, question.value)


def test_the_halves_ask_different_questions_about_one_to_three_documents():
    halves = [fact_questions(30, seed=5, half=half) for half in (TUNING, REPORTING)]
    assert not {question.question for question in halves[0]} & {question.question for question in halves[1]}
    assert {question.documents for question in halves[0]} == {1, 2, 3}
    with pytest.raises(ConfigError, match="must be one of tuning, reporting"):
        fact_questions(1, seed=5, half="third")


@pytest.mark.parametrize(
    ("text", "value", "held"),
    [
        ("It costs 43 euros.", "43", True),
        ("It costs 43.", "43", True),
        ("It costs 143 or 430 euros.", "43", False),
        ("It costs 43.50 euros.", "43", False),
        ("It costs 1.43 euros.", "43", False),
        ("It opens at 8:15.", "15", False),
        ("It opens at 8:15, not at 15.", "15", True),
        ("ADA\n brandt runs it.", "Ada Brandt", True),
        ("", "43", False),
    ],
)
def test_a_text_holds_a_value_as_whole_words_and_numbers(text, value, held):
    assert holds(text, value) is held


def test_a_booking_says_what_it_wants_and_the_wanted_call_fits_the_tool():
    numbers = dict(enumerate(WORDS, start=2))
    requests = table_bookings(25, seed=6)
    for request in requests:
        guests = request.wanted["guests"]
        assert all(holds(request.prompt, request.wanted[name]) for name in ("restaurant", "day", "time"))
        assert holds(request.prompt, str(guests)) or holds(request.prompt, numbers[guests])
        assert valid_call([{"function": {"name": "book_table", "arguments": request.wanted}}], [request.tool])
        assert request.prompt[0].isupper()
        assert request.tool == BOOK_TABLE
    assert len({request.prompt for request in requests}) > 22


def test_a_profile_says_what_it_wants_and_the_wanted_answer_fits_the_schema():
    for profile in profiles(25, seed=7):
        wanted = [value for name, value in profile.wanted.items() if name != "languages"]
        assert all(holds(profile.text, str(value)) for value in [*wanted, *profile.wanted["languages"]])
        assert profile.prompt.endswith(profile.text)
        assert valid_json(json.dumps(profile.wanted), profile.schema)
        assert profile.schema == PROFILE_SCHEMA
