"""What a base response took from the chat, and whether a revision still holds it."""

import pytest

from sda_engine.choosing import missing_values, values_of
from sda_engine.choosing.values import facts_of

SOURCE = (
    "A yearly card for the swimming hall costs 43 euros. On Saturdays the reading room opens at 8:15. "
    "Ada Brandt is in charge of the archive. The entrance is behind the old mill. Write to desk@hall.org."
)

ASKED = ("reading room", "Saturdays")  # all that it says was in the question


@pytest.mark.parametrize(
    ("answer", "question", "values"),
    [
        ("It costs 43 euros.", "How much is the card?", ("43",)),
        ("It opens at 8:15 on Saturdays.", "When does it open?", ("8:15", "Saturdays")),
        ("Ada Brandt is in charge.", "Who is in charge?", ("Brandt",)),  # at a beginning a capital tells nothing
        ("The head is Ada Brandt.", "Who is in charge?", ("Ada Brandt",)),
        ("You find it behind the old mill.", "Where is the entrance?", ("behind the old mill",)),
        ("The entrance is behind the old mill.", "Where is the entrance?", ("behind the old mill",)),
        ("Mail desk@hall.org, please.", "Whom do I ask?", ("desk@hall.org",)),
        ("That is 44 dollars.", "How much is the card?", ()),  # it stands in no source
        ("I do not know.", "How much is the card?", ()),
        ("", "How much is the card?", ()),
        ("The reading room is open on Saturdays.", "When is the reading room open on Saturdays?", ASKED),
        ("It is by the mill.", "Where is the entrance?", ("mill",)),  # one word, where there is no more
        ("Prices: 43, 43.", "", ("43",)),
    ],
)
def test_values_stand_in_the_source_and_not_in_the_question(answer, question, values):
    assert values_of(answer, [SOURCE], question) == values


def test_what_else_is_recited_need_not_be_said_again():
    answer = "A yearly card costs 43 euros. On Saturdays the reading room opens at 8:15. Ask Ada Brandt."
    assert values_of(answer, [SOURCE], "What does a yearly card cost?") == ("43",)
    both = "What does a yearly card cost, and when does the reading room open?"
    assert values_of(answer, [SOURCE], both) == ("43", "Saturdays", "8:15")
    assert {"43", "8:15", "Ada Brandt"} <= set(values_of(answer, [SOURCE], "Tell me all."))


def test_an_answer_that_comes_first_counts_though_it_takes_up_no_word_of_the_question():
    question = "When does the reading room open on Saturdays?"
    rambling = "The answer is: 8:15. In this case, the reading room is open at 8:15pm, as it is on Saturdays."
    assert "8:15" in values_of(rambling, [SOURCE], question)
    assert "43" in values_of("Forty three. It is 43. So the price is known.", [SOURCE], "What is the price?")


def test_a_long_quotation_is_prose_that_may_be_put_in_other_words():
    source = "the river rises slowly in spring and floods low meadows near town every second year"
    assert values_of("They say the river rises slowly in spring and floods low meadows.", [source]) == ()


def test_a_value_may_be_taken_from_any_message():
    assert values_of("It is 12 or 13.", ["first 12", "then 13"]) == ("12", "13")


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("A CARD IS 43 EUROS, ASK ADA BRANDT!", ()),
        ("It is 43.5 euros, says Ada Brandt.", ("43",)),
        ("It is 143, says Ada  Brandt.", ("43",)),
        ("43: ada brandt", ()),
        ("43, Ada, Brandt", ()),
        ("43, Brandt Ada", ("Ada Brandt",)),
    ],
)
def test_a_value_is_held_as_whole_words_in_any_case(answer, missing):
    assert missing_values(answer, ("43", "Ada Brandt")) == missing


@pytest.mark.parametrize(
    ("answer", "question", "facts"),
    [
        ("The capital of France is Paris.", "What is the capital of France?", ("Paris",)),
        ("It ended in 1945.", "When did World War II end?", ("1945",)),
        ("It was painted by Leonardo da Vinci in Italy.", "Who painted it?", ("Leonardo", "Vinci", "Italy")),
        ("Plants take in air and light.", "What do plants take in?", ()),  # phrases are the model's own words
    ],
)
def test_the_facts_of_an_answer_are_its_names_and_numbers(answer, question, facts):
    assert facts_of(answer, question) == facts
