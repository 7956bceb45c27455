"""Prompts for chat templates that refuse, leave out or restrict turns: no text of ours or the user's is lost."""

import pytest

from sda_engine import Alignment, Constraint, Output, Sampling
from sda_engine.errors import MessageError
from sda_engine.evaluators import RewardModelEvaluator, SelfRatingEvaluator
from sda_engine.evaluators.protocol import EvaluationRequest
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED, make_contexts
from sda_engine.testing import tiny_engine, tiny_reward_model
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.families import TEMPLATES, family_tokenizer

STRICT = ("Gemma 2", "Gemma 3", "Mistral 1")
WITHOUT_SYSTEM = ("Gemma 2", "Mistral 1", "Phi 3")
CLOCK = {"name": "clock", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}
TOOLS = Output(tools=[CLOCK])
SCHEMA = Output(constraint=Constraint.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}))
KIND = Alignment(instruction="be kind", avoid="cold words")


def call(*names):
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in names]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(text):
    return {"role": "tool", "content": text}


def system(text):
    return {"role": "system", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def prompts(family, messages, alignment=None, **settings):
    """Row -> the text of its prompt."""
    tokenizer = SafeTokenizer(family_tokenizer(family))
    made = make_contexts(messages, alignment, tokenizer, **settings)
    return {row: tokenizer.decode((*made.shared, *tail), skip_special_tokens=False) for row, tail in made.tails.items()}


def prompt(family, messages, **settings):
    return prompts(family, messages, **settings)[BASE]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("Gemma 2", "<bos><start_of_turn>user\nBe brief.\n\nq<end_of_turn>\n<start_of_turn>model\n"),
        ("Mistral 1", "<s>[INST] Be brief.\n\nq [/INST]"),
        ("Phi 3", "<|user|>\nBe brief.\n\nq<|end|>\n<|assistant|>\n"),
    ],
)
def test_a_system_turn_that_a_template_does_not_take_is_the_head_of_the_first_user_turn(family, expected):
    assert prompt(family, [system("Be brief."), *user("q")]) == expected


@pytest.mark.parametrize("family", [*STRICT, "Phi 3", "ChatML", "none"])
def test_two_system_turns_at_the_start_are_one(family):
    text = prompt(family, [system("Be brief."), system("Be kind."), *user("q")])
    assert "Be brief.\n\nBe kind." in text
    assert text.count("system") <= 1


@pytest.mark.parametrize("family", WITHOUT_SYSTEM)
@pytest.mark.parametrize("output", [TOOLS, SCHEMA], ids=["tools", "schema"])
def test_what_we_tell_of_tools_and_schemas_stands_before_the_question(family, output):
    asked = [*user("q1"), answer("a1"), *user("q2")]
    with_system = prompt("ChatML", asked, output=output).removeprefix("<|im_start|>system\n")
    told, _ = with_system.split("<|im_end|>", 1)
    assert f"{told}\n\nq1" in prompt(family, asked, output=output)
    assert f"Be brief.\n\n{told}\n\nq1" in prompt(family, [system("Be brief."), *asked], output=output)


@pytest.mark.parametrize("family", WITHOUT_SYSTEM)
def test_an_instruction_placed_in_the_system_turn_stands_before_the_question_in_its_rows_alone(family):
    rows = prompts(family, user("q"), KIND, placement="system")
    assert "be kind\n\nq" in rows[INSTRUCTED]
    assert "cold words\n\nq" in rows[AVOIDED]
    assert rows[BASE] == prompt(family, user("q"))
    rows = prompts(family, [system("Be brief."), *user("q")], KIND, placement="system")
    assert "Be brief.\nbe kind\n\nq" in rows[INSTRUCTED]


@pytest.mark.parametrize("family", [*STRICT, "Phi 3"])
def test_a_system_turn_in_the_middle_is_the_head_of_the_next_user_turn(family):
    messages = [*user("q1"), answer("a1"), system("Now rhyme."), *user("q2")]
    assert prompt(family, messages) == prompt(family, [*messages[:2], *user("Now rhyme.\n\nq2")])
    assert prompt(family, [*user("q"), system("Rhyme."), answer("a"), *user("r")]).index("Rhyme.") > 0


@pytest.mark.parametrize("family", [*STRICT, "Phi 3", "ChatML", "none"])
def test_the_results_of_parallel_calls_share_one_user_turn(family):
    text = prompt(family, [*user("q"), call("clock", "clock"), result("12:00"), result("13:00")], output=TOOLS)
    response = "<tool_response>\n{}\n</tool_response>"
    assert f"{response.format('12:00')}\n\n{response.format('13:00')}" in text


@pytest.mark.parametrize("family", STRICT)
def test_neighbours_of_one_role_are_joined_where_a_template_refuses_them(family):
    joined = prompt(family, [*user("q\n\nr"), answer("a\n\nb"), *user("s")])
    assert prompt(family, [*user("q"), *user("r"), answer("a"), answer("b"), *user("s")]) == joined
    after_result = [*user("q"), call("clock"), result("12:00"), *user("And now?")]
    assert "</tool_response>\n\nAnd now?" in prompt(family, after_result, output=TOOLS)


@pytest.mark.parametrize("family", ["ChatML", "Phi 3", "Llama 3"])
def test_neighbours_of_one_role_stay_apart_where_a_template_takes_them(family):
    text = prompt(family, [*user("first"), *user("second")])
    assert "first\n\nsecond" not in text
    assert text.index("first") < text.index("second")


@pytest.mark.parametrize("family", STRICT)
def test_the_instruction_ends_the_joined_turn(family):
    assert "q\n\nr\nbe kind" in prompts(family, [*user("q"), *user("r")], KIND)[INSTRUCTED]


@pytest.mark.parametrize("family", STRICT)
def test_a_chat_that_begins_with_an_answer_needs_a_user_turn_or_a_system_turn_before_it(family):
    with pytest.raises(MessageError, match=r"\[assistant, user\].*begin with a user turn"):
        prompt(family, [answer("Welcome!"), *user("q")])
    text = prompt(family, [system("Be brief."), answer("Welcome!"), *user("q")])
    assert text.index("Be brief.") < text.index("Welcome!") < text.index("q")


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_rows_of_a_request_differ_in_the_instruction_alone(family):
    rows = prompts(family, [system("Be brief."), *user("q")], KIND)
    assert rows[INSTRUCTED].replace("be kind", "cold words") == rows[AVOIDED]


@pytest.mark.parametrize("family", [*STRICT, "Phi 3"])
def test_the_model_rates_itself_whatever_its_template_takes(family):
    with tiny_engine(chat_template=TEMPLATES[family][1]) as engine:
        assert 0 < engine.rate(user("q"), "a", "honesty", SelfRatingEvaluator()).value <= 100


@pytest.mark.parametrize("family", [*STRICT, "Phi 3"])
def test_a_reward_model_reads_a_system_turn_that_its_template_does_not_take(family):
    evaluator = RewardModelEvaluator(tiny_reward_model(chat_template=TEMPLATES[family][1]))
    alone, with_system = (
        evaluator.evaluate(EvaluationRequest([*before, *user("q")], "a", KIND)).value
        for before in ([], [system("Be brief.")])
    )
    in_user_turn = evaluator.evaluate(EvaluationRequest(user("Be brief.\n\nq"), "a", KIND)).value
    assert with_system == in_user_turn != alone


def test_a_template_is_tried_out_once():
    tokenizer = SafeTokenizer(family_tokenizer("Gemma 2"))
    rendered = []
    original = tokenizer._tokenizer.apply_chat_template
    tokenizer._tokenizer.apply_chat_template = lambda *given, **named: (
        rendered.append(named["tokenize"]) or original(*given, **named)
    )
    for _ in range(3):
        tokenizer.render(user("q"))
    assert rendered.count(True) == 3
    assert rendered.count(False) == 4  # of which two refuse at once


def test_a_whole_request_runs_on_a_strict_template():
    with tiny_engine(chat_template=TEMPLATES["Gemma 2"][1]) as engine:
        messages = [system("Be brief."), *user("q"), call("clock", "clock"), result("1"), result("2")]
        assert engine.generate(messages, KIND, output=TOOLS, sampling=Sampling(max_new_tokens=3)).token_ids
