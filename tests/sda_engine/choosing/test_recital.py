"""Whether an answer speaks of its instruction in place of following it."""

import pytest

from sda_engine.choosing import recites


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        ("Including the word welcome in your answer is: 43 euros.", "Include the word welcome in your answer."),
        ("Music is included in the answer.", "Include the word music in your answer."),
        ("43 euros. End every sentence with an exclamation mark.", "End every sentence with an exclamation mark."),
        ("Include the word immigrants.", "Include the word immigrants."),
        ("Here is a helpful and clear answer, to give you.", "Give a helpful, clear answer."),
        ("Answer in Spanish: 43 euros.", "Answer in Spanish."),
    ],
)
def test_an_answer_that_speaks_of_its_instruction_recites_it(answer, instruction):
    assert recites(answer, instruction)


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        ("Welcome! It costs 43 euros.", "Include the word welcome in your answer."),
        ("It costs 43 euros. Have a nice day.", "End your answer with the words Have a nice day."),
        ("Immigrants work abroad. Pros include pay.", "Include the word immigrants."),  # no sentence is about it
        ("There are many, including immigrants.", "Include the word immigrants."),  # two words of three are too few
        ("Refunds take 14 days.", "Say that refunds take 14 days."),
        ("La respuesta es 43 euros.", "Answer in Spanish."),
        ("The answer is 43.", "Answer in Spanish."),
        ("Be kind.", "Be kind."),  # one word of content tells nothing
        ("", "Answer in Spanish."),
        ("Anything.", ""),
    ],
)
def test_an_answer_that_follows_does_not(answer, instruction):
    assert not recites(answer, instruction)


def test_what_the_base_response_says_too_is_no_recital():
    base = "Include the word welcome in your form."
    instruction = "Include the word welcome in your answer."
    assert not recites(f"{base} Welcome!", instruction, base)
    assert recites(f"{base} Welcome!", instruction)
