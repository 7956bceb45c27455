"""The page over the real server: what the browser lets it do there, and that both speak of the same things."""

import pytest
from playwright.sync_api import expect

from sda_engine import Sampling, Steering
from sda_engine.testing import tiny_engine
from tests.conftest import user
from tests.sda_integrations.server.playground.opened import Opened
from tests.sda_integrations.server.playground.scripted_server import KINDS
from tests.servers import serving

KEY = "a-key-of-the-page"
QUESTION = "What is in the library?"
BRIEF = {"Prompt": QUESTION, "Max tokens": "6", "Temperature": "0"}
ASKED = {
    "plain": {},
    "prompt": {"alignment": "honesty", "steering": Steering(policy="paper", amplification=0.0)},
    "steered": {"alignment": "honesty", "steering": Steering(gain=1.0, amplification=1.0)},
}


@pytest.fixture(scope="module")
def engine():
    with tiny_engine() as engine:
        yield engine


def check_answers(opened, engine) -> None:
    """The page shows what the engine says in this process: three answers that differ."""
    wanted = {}
    for kind, asked in ASKED.items():
        done = engine.generate(user(QUESTION), sampling=Sampling(temperature=0, max_new_tokens=6), **asked)
        wanted[kind] = "".join(token.text for token in done.trace.tokens)  # half a character at the end has no text
    assert len(set(wanted.values())) == len(KINDS)
    assert {kind: opened.text(kind) for kind in KINDS} == wanted


def test_three_answers_come_and_their_tokens_have_details(window, engine) -> None:
    with serving(engine, alignment="honesty", served_model_name="tiny") as address:
        opened = Opened(window, address)
        page = opened.connect()
        assert page.get_by_label("Alignment", exact=True).input_value() == "honesty"
        assert page.locator("#model option").all_text_contents() == ["tiny"]
        opened.run(BRIEF)
        check_answers(opened, engine)
        assert opened.figures("steered")["Strength"] == "1"
        assert opened.figures("steered")["Tokens"].startswith("6")
        opened.answer("steered").locator(".t").first.click()
        assert "Divergence" in opened.details()
        expect(page.locator("#details .distributions")).to_be_visible()
        opened.leave()
    assert opened.complaints == []


def test_a_refusal_of_the_server_is_told_at_every_answer(window, engine) -> None:
    with serving(engine, served_model_name="tiny") as address:
        opened = Opened(window, address)
        opened.connect()
        opened.run({**BRIEF, "Prompt": "What is in the library? " * 400}, until="No answer.")
        for kind in KINDS:
            expect(opened.answer(kind).get_by_role("alert")).to_contain_text("context window")
        opened.leave()
    assert opened.complaints == []


def test_a_key_lets_a_browser_have_the_page_and_is_asked_for_again_by_the_page(window, engine) -> None:
    with serving(engine, api_keys=(KEY,), served_model_name="tiny", alignment="honesty") as address:
        refused = window.context.request.get(address)
        assert refused.status == 401
        context = window.context.browser.new_context(http_credentials={"username": "me", "password": KEY})
        opened = Opened(context.new_page(), address)
        opened.page.goto(address)
        expect(opened.page.locator("#trouble")).to_have_text("This server asks for an API key.")
        opened.page.get_by_label("API key").fill(KEY)
        opened.page.keyboard.press("Enter")
        expect(opened.page.locator("#connection")).to_be_hidden()
        opened.run(BRIEF)
        check_answers(opened, engine)
        opened.leave()
        context.close()
    assert opened.complaints == []
