"""What must stay of a base response, by what was asked and what it could draw from."""

import pytest

from sda_engine.choosing import missing_values, values_to_keep
from tests.conftest import user

SOURCE = "A yearly card costs 43 euros. On Saturdays the reading room opens at 8:15."


def test_what_is_lost_is_told_of_the_last_question():
    messages = [
        {"role": "system", "content": SOURCE},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A librarian."},
        {"role": "user", "content": "What does the card cost, and when does the room open on Saturdays?"},
    ]
    values = values_to_keep(messages, "It costs 43 euros and opens at 8:15 on Saturdays.")
    assert missing_values("Welcome! It opens at 8:15.", values) == ("43",)


def test_what_was_taken_from_the_question_alone_need_not_stay():
    chat = [{"role": "user", "content": "What are the pros and cons of working abroad?"}]
    assert missing_values("It pays.", values_to_keep(chat, "The pros and cons of working abroad are many.")) == ()
    told = [{"role": "user", "content": f"{SOURCE}\nWhen does the reading room open on Saturdays?"}]
    assert missing_values("It opens early.", values_to_keep(told, "The reading room opens at 8:15.")) == ("8:15",)


@pytest.mark.parametrize(
    ("asked", "response", "values"),
    [
        (f"{SOURCE} What does a card cost?", "It is 43 euros.", ("43",)),
        ("What is the capital of France?", "The capital of France is Paris.", ("Paris",)),  # a fact of the model's own
        ("What is the capital of France?", f"It is Paris. {'It is a city of many old houses. ' * 6}", ()),  # composed
        ("Write a poem about Anna and her 2 cats.", "O Anna, with 2 cats at home.", ()),
        (f"Shorten this. {f'{SOURCE} ' * 5}", "Cards are 43 euros.", ("43",)),  # too long for a request without a text
        (f"{SOURCE}\nQuery: price of a card\nAnswer:", "It is 43 euros.", ("43",)),  # what is retrieved stands in lines
        ("", "It is 43.", ()),
    ],
)
def test_what_must_stay_depends_on_what_was_asked(asked, response, values):
    assert values_to_keep(user(asked), response) == values


def test_a_request_may_draw_from_what_was_said_before():
    chat = [*user("I am Anna Brandt."), {"role": "assistant", "content": "Hello!"}, *user("Write a poem about me.")]
    assert values_to_keep(chat, "O dear Anna Brandt, hello!") == ("Anna Brandt",)
    assert values_to_keep([{"role": "system", "content": SOURCE}, *user("Tell me the price.")], "43 it is.") == ("43",)


def test_a_chat_without_a_user_turn_is_all_source():
    assert values_to_keep([{"role": "system", "content": SOURCE}], "It is 43.") == ("43",)
