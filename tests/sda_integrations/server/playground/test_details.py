"""What steering did at one token: shown to those who point, tap, press keys or listen."""

import pytest
from playwright.sync_api import expect

from tests.sda_integrations.server.playground.scripted_server import answer, token


@pytest.fixture
def answered(opened, script):
    """The page with an answer of four tokens."""
    script.answers["steered"] = answer(
        [token("I", 0.02, position=0.0, spent=0.0), token(" am", 0.4, spent=0.31, position=1.0), token("\n"), token("")]
    )
    opened.connect()
    opened.run()
    return opened


def steered_token(opened, index):
    return opened.answer("steered").locator(".t").nth(index)


def test_pointing_at_a_token_shows_what_it_could_have_been_in_each_context(answered):
    panel = answered.page.locator("#details")
    assert not panel.is_visible()
    steered_token(answered, 1).hover()
    expect(panel).to_be_visible()
    assert panel.locator("b").text_content() == "␣am"
    assert panel.locator(".place").text_content() == "Steered, token 2"
    assert answered.details() == {
        "Divergence": "0.4 nats",
        "Temperature": "0.55",
        "Strength": "1",
        "Spent": "0.31 nats",
    }
    assert panel.locator("h3").all_text_contents() == ["Base", "Instructed", "Steered"]
    rows = panel.locator("section").nth(2).locator("li")
    assert rows.all_text_contents() == ["␣am 75.0%", "␣other 20.0%", "↵ <0.1%"]
    assert rows.first.evaluate("row => row.style.getPropertyValue('--p')") == "0.75"
    assert panel.locator(".taken").count() == 2, "the base context had the token not among its first"


def test_what_the_base_context_decided_alone_is_told_and_of_a_plain_answer_nothing_of_steering(answered):
    steered_token(answered, 0).hover()
    assert answered.details()["Decided by"] == "the base context alone"
    answered.answer("plain").locator(".t").first.hover()
    assert answered.details() == {"Temperature": "0.55"}
    assert answered.page.locator("#details h3").all_text_contents() == ["Most likely"]


def test_an_answer_is_one_tab_stop_and_arrow_keys_move_in_it(answered):
    page = answered.page
    assert answered.answer("steered").locator("[tabindex]").count() == 1
    answered.page.get_by_role("button", name="Run").focus()
    for _ in range(3):  # the three answers
        page.keyboard.press("Tab")
    expect(steered_token(answered, 0)).to_be_focused()
    for key, index in (("ArrowRight", 1), ("End", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0)):
        page.keyboard.press(key)
        expect(steered_token(answered, index)).to_be_focused()
    assert answered.answer("steered").locator("[tabindex]").count() == 1
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()
    expect(steered_token(answered, 0)).to_be_focused()


def test_moving_to_a_token_says_its_details_and_pointing_at_one_does_not(answered):
    spoken = answered.page.locator("#spoken")
    steered_token(answered, 1).hover()
    assert spoken.text_content() == ""
    steered_token(answered, 0).click()
    answered.page.keyboard.press("ArrowRight")
    assert spoken.text_content() == (
        "Token 2, am. Divergence 0.4 nats. Temperature 0.55. Strength 1. Spent 0.31 nats. "
        "Base: else 60.0%, other 20.0%, line break <0.1%. "
        "Instructed: am 50.0%, other 20.0%, line break <0.1%. "
        "Steered: am 75.0%, other 20.0%, line break <0.1%"
    )


def test_the_panel_has_buttons_for_those_whose_arrow_keys_are_taken(answered):
    page = answered.page
    steered_token(answered, 1).click()
    page.get_by_role("button", name="Token after").click()
    assert page.locator("#details b").text_content() == "↵"
    assert page.locator("#spoken").text_content().startswith("Token 3, line break.")
    page.get_by_role("button", name="Token before").click()
    page.get_by_role("button", name="Token before").click()
    page.get_by_role("button", name="Token before").click()
    assert page.locator("#details .place").text_content() == "Steered, token 1"
    page.get_by_role("button", name="Close details").click()
    assert not page.locator("#details").is_visible()
    expect(steered_token(answered, 0)).to_be_focused()


def test_a_token_that_is_moved_to_does_not_lie_under_the_panel(answered, script):
    script.answers["steered"] = answer([token("word ", 0.1) for _ in range(400)])
    answered.run()
    answered.page.set_viewport_size({"width": 360, "height": 640})
    steered_token(answered, 0).click()
    answered.page.keyboard.press("End")
    token_box = steered_token(answered, 399).bounding_box()
    assert token_box["y"] + token_box["height"] <= answered.page.locator("#details").bounding_box()["y"]


def test_a_new_run_closes_the_details_of_a_token_that_goes(answered):
    steered_token(answered, 1).click()
    answered.run()
    assert not answered.page.locator("#details").is_visible()
    assert answered.page.locator("#spoken").text_content() == ""
