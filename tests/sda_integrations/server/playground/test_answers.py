"""Three answers in a real browser: how they are asked for, how they come, and what is shown of them."""

import pytest
from playwright.sync_api import expect

from tests.sda_integrations.server.playground.scripted_server import KINDS, answer, chunk, said, token

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">&amp;</div>"


def test_one_prompt_becomes_three_requests_that_differ_in_sda_alone(opened, script):
    opened.connect()
    opened.run({"Prompt": "Why?", "System prompt optional": "Be brief.", "Max tokens": "9", "Temperature": "0"})
    shared = {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "max_tokens": 9,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    asked = {kind: body.pop("sda") for kind, body in script.bodies.items()}
    assert script.bodies == dict.fromkeys(KINDS, shared)
    assert asked == {
        "plain": {"alignment": None, "trace": True},
        "prompt": {"alignment": "empathy", "policy": "paper", "amplification": 0, "trace": True},
        "steered": {"alignment": "empathy", "gain": 1, "amplification": 1, "trace": True},
    }


def test_the_strength_can_be_left_to_the_score_and_something_be_avoided(opened, script):
    page = opened.connect()
    page.get_by_label("Strength").fill("2.5")
    page.get_by_label("Let the evaluator's score decide").check()
    opened.run({"Avoid optional": "Legal terms.", "Seed": "7"})
    alignment = {
        "name": "empathy",
        "instruction": "Reply warmly.",
        "rubric": "Rate the warmth.",
        "avoid": "Legal terms.",
    }
    assert script.bodies["steered"]["sda"] == {"alignment": alignment, "gain": 2.5, "trace": True}
    assert {body["seed"] for body in script.bodies.values()} == {7}


def test_an_instruction_of_ones_own_is_asked_for_where_nothing_says_what_to_do(opened, script):
    page = opened.connect()
    page.get_by_label("Alignment", exact=True).select_option("your own instruction")
    page.get_by_role("button", name="Run").click()
    instruction = page.get_by_label("Instruction of your own")
    assert instruction.evaluate("field => field.validationMessage") == "Say what to do, or below what to avoid."
    assert script.bodies == {}
    opened.run({"Instruction of your own": "Rhyme."})
    assert script.bodies["prompt"]["sda"]["alignment"] == "Rhyme."


def test_models_are_offered_without_those_that_name_an_alignment(opened):
    page = opened.connect()
    assert page.locator("#model option").all_text_contents() == ["tiny", "other"]


def test_the_alignment_that_the_server_has_by_default_is_chosen_at_first(opened, script):
    script.default_alignment = "honesty"
    assert opened.connect().get_by_label("Alignment", exact=True).input_value() == "honesty"


def test_each_answer_shows_its_text_shades_figures_warnings_and_base_response(opened, script):
    score = {"value": 31.0, "evaluator": "contrastive", "reason": "names no feeling", "fallback": None}
    warning = {"kind": "repetition", "place": 1, "detail": "it repeats", "strength": 2.0, "new_strength": 1.0}
    script.answers["steered"] = answer(
        [token("I"), token(" am", 0.6931), token("\n"), token("")],
        score=score, amplification=0.8052, strength=1.61, warnings=[warning],
        base_response="Base.", base_response_tokens=5, dropped_tokens=0,
    )  # fmt: skip
    opened.connect()
    opened.run()
    steered = opened.answer("steered")
    assert opened.text("steered") == "I am\n"
    shades = steered.locator(".said .t").evaluate_all("all => all.map(one => one.style.getPropertyValue('--d'))")
    assert shades == ["0.000", "1.000", "0.000", "0.000"]
    figures = opened.figures("steered")
    assert figures.pop("First token").endswith("s")
    figures.pop("Tokens per second", None)
    assert figures == {
        "Strength": "1.61",
        "Amplification": "0.805",
        "Mean divergence": "0.125 nats",
        "Tokens": "4",
        "Base response": "5 tokens",
        "Score": "31 of 100 by contrastive; names no feeling",
    }
    assert steered.locator(".warnings li").all_text_contents() == [
        "repetition at token 2: it repeats (strength 2, lowered to 1)"
    ]
    assert steered.locator(".rated .text").text_content() == "Base."
    assert "Strength" not in opened.figures("plain")


def test_a_thought_stands_above_the_answer_and_text_without_a_trace_is_shown_too(opened, script):
    bare = chunk(choices=[{"index": 0, "delta": {"content": "Bare."}, "finish_reason": None}])
    script.answers["plain"] = [bare, *answer([])[1:]]
    thought, said_aloud = said(token("Hmm."), field="reasoning_content"), said(token("Yes."))
    script.answers["steered"] = [thought, said_aloud, *answer([], finish="length")[1:]]
    opened.connect()
    opened.run()
    assert opened.text("plain") == "Bare."
    assert opened.text("steered") == "Yes."
    assert opened.figures("steered")["Tokens"] == "2, cut off"
    assert opened.answer("steered").locator(".thought .text").text_content() == "Hmm."
    assert not opened.answer("plain").locator(".thought").is_visible()


def test_markup_in_an_answer_stays_text(opened, script):
    pieces = [token(HOSTILE[:30], steered=[[HOSTILE, 0.5]]), token(HOSTILE[30:]), token("")]
    script.answers["steered"] = answer(pieces, base_response=HOSTILE, score={"value": 1, "reason": HOSTILE})
    page = opened.connect()
    opened.run()
    opened.answer("steered").locator(".t").first.click()
    assert opened.text("steered") == HOSTILE
    expect(page.locator("#details .distributions")).to_contain_text(HOSTILE.replace(" ", "␣"))
    assert page.locator("main img, aside img, main script").count() == 0
    assert page.title() == "SDA playground"


def test_stop_ends_the_requests_and_keeps_what_has_come(opened, script):
    script.held = KINDS
    page = opened.connect()
    page.keyboard.press("Control+Enter")
    for kind in KINDS:
        expect(opened.answer(kind).locator(".said")).to_have_text("Yes.")
    expect(page.locator("#status")).to_have_text("Answering…")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped.")
    for kind in KINDS:
        assert script.hung_up[kind].wait(10), f"the server still writes the {kind} answer"
        assert opened.figures(kind)["Tokens"] == "3"
        assert not opened.answer(kind).locator(".error").is_visible()


def test_a_new_run_ends_the_one_before_it_and_takes_its_place(opened, script):
    script.held = KINDS
    page = opened.connect()
    page.keyboard.press("Control+Enter")
    for kind in KINDS:
        expect(opened.answer(kind).locator(".said")).to_have_text("Yes.")
    script.held = ()
    opened.run()
    assert all(script.hung_up[kind].wait(10) for kind in KINDS)
    assert [opened.text(kind) for kind in KINDS] == ["Yes."] * 3


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ({"message": "sda.gain cannot be 99.", "param": "sda.gain"}, "sda.gain cannot be 99. (request req-7)"),
        ({"message": "It is too long.", "param": "messages"}, "messages: It is too long. (request req-7)"),
        ({}, "The server answered 400 Bad Request. (request req-7)"),
    ],
)
def test_a_refusal_is_told_at_the_answer_that_it_belongs_to(opened, script, error, shown):
    script.errors["steered"] = (400, error)
    opened.connect()
    opened.run(until="1 of 3 answers failed.")
    assert opened.answer("steered").get_by_role("alert").text_content() == shown
    assert opened.text("plain") == "Yes."


def test_a_stream_that_breaks_keeps_its_text_and_says_why(opened, script):
    script.breaks = {"prompt": {"message": "The evaluator failed.", "type": "server_error"}, "steered": None}
    opened.connect()
    opened.run(until="2 of 3 answers failed.")
    assert opened.answer("prompt").get_by_role("alert").text_content() == "The evaluator failed."
    broke_off = "The answer broke off: the connection closed before its end."
    assert opened.answer("steered").get_by_role("alert").text_content() == broke_off
    assert opened.text("prompt") == opened.text("steered") == "Yes."
