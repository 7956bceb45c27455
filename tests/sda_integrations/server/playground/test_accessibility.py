"""The page for those who see, hear or point less well, on narrow screens, in light and dark."""

import pytest
from playwright.sync_api import expect

from tests.sda_integrations.server.playground.scripted_server import answer, token

LN_2 = 0.6931471805599453


@pytest.fixture
def full(opened, script):
    """The page with all that it can show: shades, warnings, a score, an error."""
    tokens = [token(f" word{index}", index / 9 * LN_2, position=index % 2, spent=0.1) for index in range(10)]
    warning = {"kind": "collapse", "place": 1, "detail": "it repeats", "strength": 2.0, "new_strength": None}
    score = {"value": 31.0, "evaluator": "contrastive", "reason": "names no feeling"}
    script.answers["steered"] = answer(
        [*tokens, token("\n"), token("")], warnings=[warning], score=score, base_response="Base."
    )
    script.errors["prompt"] = (400, {"message": "It is too long."})
    return opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_before_and_after_answers(full, scheme):
    page = full.connect()
    page.emulate_media(color_scheme=scheme)
    assert full.violations() == []
    full.run(until="1 of 3 answers failed.")
    full.answer("steered").locator(".t").nth(4).click()
    assert full.violations() == []


def test_axe_finds_nothing_wrong_where_a_key_is_asked_for(opened, script):
    script.key = "k"
    opened.page.goto(opened.address)
    expect(opened.page.get_by_label("API key")).to_be_visible()
    assert opened.violations() == []


# Colours as the browser draws them: axe does not read mixtures in oklab. Contrast as WCAG 2.2 defines it
CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const luminance = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll("[data-kind=steered] .t")].map((token) => {
    const { color, backgroundColor } = getComputedStyle(token);
    const [dark, light] = [luminance(color), luminance(backgroundColor)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_can_be_read_on_its_shade(full, scheme):
    page = full.connect()
    page.emulate_media(color_scheme=scheme)
    full.run(until="1 of 3 answers failed.")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) == 12
    assert min(contrasts) >= 4.5


def test_nothing_is_cut_off_on_a_narrow_screen(full):
    page = full.connect()
    page.set_viewport_size({"width": 360, "height": 640})
    full.run(until="1 of 3 answers failed.")
    full.answer("steered").locator(".t").nth(4).click()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    lefts = page.locator(".answer").evaluate_all("all => all.map(one => one.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1, "one answer stands below the other"


def test_the_tabs_of_the_code_follow_the_arrow_keys(opened):
    page = opened.connect()
    page.get_by_role("tab", name="LangChain").focus()
    for key, name in (
        ("ArrowRight", "LlamaIndex"),
        ("ArrowRight", "curl"),
        ("ArrowRight", "LangChain"),
        ("ArrowLeft", "curl"),
    ):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        assert tab.get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel", name="curl").is_visible()


def test_the_button_that_stops_keeps_the_focus_when_the_answers_end(opened):
    page = opened.connect()
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("Done.")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()


def test_nothing_moves_where_the_reader_wants_no_motion(opened, script):
    script.held = ("plain",)
    page = opened.connect()
    page.keyboard.press("Control+Enter")
    expect(opened.answer("plain").locator(".said")).to_have_text("Yes.")
    assert page.evaluate("() => document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("() => document.getAnimations().length") == 1
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped.")
