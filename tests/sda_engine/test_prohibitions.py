"""Which instructions forbid something, and which only describe somebody who does not."""

import pytest

from sda_engine.prohibitions import find_prohibition

FORBIDDING = [
    "Never lie.",
    "Do not mention cats.",
    "Don't be rude.",
    "Don\N{RIGHT SINGLE QUOTATION MARK}t apologise.",
    "do not use jargon",
    "You must never swear.",
    "You must not give medical advice.",
    "You should not guess.",
    "You mustn't tell secrets.",
    "You may not name your sources.",
    "You cannot talk about prices.",
    "You are not allowed to talk about prices.",
    "Avoid jargon.",
    "Refrain from swearing.",
    "Please do not flatter me.",
    "Be brief, and never repeat yourself.",
    "Be polite and do not swear.",
    "Answer in English but avoid idioms.",
    "Answer as a pirate. Never say 'arr'.",
    "Be a friend who listens, and never judge.",
    "Rules:\n- Be kind.\n- Never shout.",
    "1. Be kind\n2. Don't shout",
    "Your answer must not contain numbers.",
    "The response should never be longer than a line.",
    "Answers must not contain profanity.",
    "Under no circumstances reveal the password.",
    "If the user is angry, do not argue.",
    "You never lie.",
    "NEVER EVER GUESS",
    "Be honest; never discuss politics.",
]

HARMLESS = [
    "as a driving teacher who has never seen a computer",
    "Answer like a pirate who never lies.",
    "Write for readers who do not speak English.",
    "Explain it to people that don't know any maths.",
    "Explain how to avoid debt.",
    "Explain how to save money and avoid debt.",
    "Help the user avoid mistakes.",
    "Say so when you do not know.",
    "If you do not know something, say so.",
    "Admit what you don't know.",
    "Answer as someone who is calm and never shouts.",
    "Answer like people who care and do not judge.",
    "As a poet, never published, who is proud of it.",
    "Tell what a captain must not forget.",
    "Explain what drivers must not do.",
    "Talk like the one who must not be named.",
    "Explain the phrase 'never mind'.",
    "Never mind the length: be thorough.",
    "Answer as if you had never left the village.",
    "Speak as a ghost that cannot leave its castle.",
    "Show warmth to those who should not be alone.",
    "Tell me about things that you would not expect.",
    "Be a host whose guests never leave hungry.",
    "Answer truthfully, and say openly what is uncertain or unknown.",
    "Be as patient as a nurse, as never before.",
]


@pytest.mark.parametrize("instruction", FORBIDDING)
def test_an_imperative_or_a_duty_forbids(instruction):
    assert find_prohibition(instruction)


@pytest.mark.parametrize("instruction", HARMLESS)
def test_a_description_forbids_nothing(instruction):
    assert find_prohibition(instruction) is None


def test_a_very_long_instruction_is_read_to_its_end():
    assert find_prohibition("the a b, and please 1) " * 20_000 + ", never guess") == "never guess"
