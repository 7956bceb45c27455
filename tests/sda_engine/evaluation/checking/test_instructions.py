"""Each kind of IFEval on texts that follow and on texts that do not."""

import pytest

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import CHECKED_KINDS, LEFT_OUT, follows, language_of

ENGLISH = "the gardener walks along the river and looks for the first flowers of the year"

# kind, arguments, texts that follow, texts that do not
CASES = (
    ("keywords:existence", {"keywords": ["river", "Sun"]}, ["The sun and RIVERS."], ["The river.", "The sun."]),
    (
        "keywords:frequency",
        {"keyword": "la", "frequency": 3, "relation": "at least"},
        ["La la land"],
        ["La land and me"],
    ),
    ("keywords:frequency", {"keyword": "la", "frequency": 3, "relation": "less than"}, ["La land"], ["La la land"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "dog"]}, ["A category."], ["A Cat.", "a bird, a dog"]),
    (
        "keywords:letter_frequency",
        {"letter": "N", "let_frequency": 2, "let_relation": "at least"},
        ["Nun"],
        ["nibble"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": "less than"},
        ["Oh!"],
        ["Oh! Well!"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Die Bibliothek am Fluss hat am Montag leider geschlossen."],
        [ENGLISH, "1234 5678"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["One\n***\nTwo", "***\nOne\n***\nTwo\n***"],
        ["One\n\nTwo", "One\n***\n***\nTwo", "One *** Two *** Three"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["One, two, 3."], ["One - two."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["Don't"], ["Don't go"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
        ["One.\n\nWeekend, at last.", "One.\n\n'weekend' it is"],
        ["Weekend.\n\nOne.", "One.\n\nWeekends", "One.\n\nWeekend.\n\nThree.", "Weekend", "One.\n\n\n\nWeekend."],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["Dear [name], from [place] and [day]"],
        ["Dear [name]", "Dear [name\n]["],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Yes.\np. s. Write soon."], ["Yes. PS: no"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Yes. P.P.S. Bye"], ["Yes. P.S. Bye"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["Look:\n* one\n  - two", "- one\n- two\n**bold**"],
        ["* one", "* one\n* two\n- three", "1. one\n2. two"],
    ),
    ("detectable_format:constrained_response", {}, ["Well. My answer is maybe."], ["My answer is perhaps.", "Yes."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and **two**"],
        ["**one**", "*one\n two*", "** ** and *one*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\nOne\nSection 2\nTwo"],
        ["Section 1\nOne", "SECTION 1\nSECTION 2", "Section one Section two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', '```\n"a"\n```'],
        ["{'a': 1}", 'Here: {"a": 1}', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<Rain>>\nIt fell."], ["<Rain>", "<< >>", "<<Ra\nin>>"]),
    ("combination:two_responses", {}, ["One\n******\nTwo"], ["One", "One******One", "One******Two******Three"]),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Who are you?"},
        ["who are you? A model."],
        ["A model. Who are you?"],
    ),
    ("startend:end_checker", {"end_phrase": "The end."}, ['"Well. the END."\n'], ["The end. Well."]),
    ("startend:quotation", {}, [' "Yes." '], ['"Yes.', "Yes", '"', "'Yes'"]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, ENGLISH.upper() + " x"]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.capitalize(), ENGLISH.upper(), "12"]),
    ("punctuation:no_comma", {}, ["Yes; no."], ["Yes, no."]),
)


@pytest.mark.parametrize(("kind", "arguments", "text"), [(k, a, text) for k, a, texts, _ in CASES for text in texts])
def test_a_text_that_follows_is_seen(kind, arguments, text):
    assert follows(text, kind, arguments)


@pytest.mark.parametrize(("kind", "arguments", "text"), [(k, a, text) for k, a, _, texts in CASES for text in texts])
def test_a_text_that_does_not_follow_is_seen(kind, arguments, text):
    assert not follows(text, kind, arguments)


@pytest.mark.parametrize(("kind", "arguments"), [(kind, arguments) for kind, arguments, _, _ in CASES])
def test_an_empty_response_follows_nothing(kind, arguments):
    assert not follows(" \n", kind, arguments)


def test_there_is_a_case_for_every_kind_and_ifeval_has_25_of_them():
    assert {kind for kind, *_ in CASES} == set(CHECKED_KINDS)
    assert len({*CHECKED_KINDS, *LEFT_OUT}) == len(CHECKED_KINDS) + len(LEFT_OUT) == 25


def test_arguments_that_a_row_leaves_empty_do_not_count():
    assert follows("Yes.", "punctuation:no_comma", {"num_words": None, "relation": None})


def test_a_keyword_is_a_text_and_no_pattern():
    assert follows("I write C++.", "keywords:existence", {"keywords": ["C++"]})
    assert not follows("I write Caa.", "keywords:existence", {"keywords": ["C.."]})


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ConfigError, match="cannot be 'keywords:rhyme': it must be one of keywords:existence"):
        follows("Yes.", "keywords:rhyme", {})


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_kind_that_is_left_out_says_why(kind):
    with pytest.raises(ConfigError, match="punkt, whose data are a download"):
        follows("Yes.", kind, {})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_words": 3}, "relation"),
        ({"num_words": -1, "relation": "at least"}, "num_words"),
        ({"num_words": 3, "relation": "at most"}, "relation"),
        ({"num_words": 3, "relation": "at least", "letter": "a"}, "letter"),
    ],
)
@pytest.mark.parametrize("response", ["Yes.", ""])
def test_arguments_that_a_kind_does_not_take_are_refused(response, arguments, named):
    with pytest.raises(ConfigError, match=rf"'length_constraints:number_words' cannot be .*: {named}: "):
        follows(response, "length_constraints:number_words", arguments)


def test_a_language_is_the_same_every_time_and_the_library_keeps_its_own_seed():
    from langdetect import DetectorFactory

    seed = DetectorFactory.seed
    assert (
        len({language_of("radio video") for _ in range(12)}) == 1
    )  # which langdetect itself takes for one or the other
    assert DetectorFactory.seed is seed


def test_without_letters_there_is_no_language():
    assert language_of("42 + 1 = 43!") is None
