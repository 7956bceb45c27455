import math
import re
import sys
from html.parser import HTMLParser
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sda_engine.results.trace import Candidate, Trace, TraceToken, TraceWarning
from tests.sizes import size

HOSTILE = "</style><script>alert(\"x\")</script><img src=x onerror='y'>{{ 7*7 }}{% raw %}&amp;"
EXOTIC = [
    "中文",
    "🩺",
    "👨\u200d👩\u200d👧",
    "\n",
    "\t",
    "\x00\x1b[31m",
    "\u202e",
    "שלום",
    "हिन्दी",
    "$x_1^2$",
    "_",
    "\\",
    "é",
    "e\u0301",
    "",
]


class Page(HTMLParser):
    """Reads a trace page: the answer's text, each token's card and style, and every tag and attribute."""

    def __init__(self, page):
        super().__init__()
        self.text, self.cards, self.styles, self.tags, self.attributes = "", [], [], set(), set()
        self._open = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "meta":  # never closed
            return
        attributes = dict(attrs)
        kind = (attributes.get("class") or "").split(" ")[0]
        self._open.append(kind)
        if kind == "t":
            self.styles.append(attributes["style"])
        if kind == "c":
            self.cards.append("")

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if "c" in self._open:
            self.cards[-1] += data + " "
        elif "t" in self._open:
            self.text += data


def token(text, *, divergence=0.2, temperature=0.5, logprob=-0.5, candidates=()):
    return TraceToken(7, text, divergence, temperature, logprob, *([tuple(candidates)] * 3))


def trace_of(*texts):
    return Trace(tuple(token(text, candidates=[Candidate(text, 0.5)]) for text in texts), "careful", 1.25)


def strong(text, strength):
    return TraceToken(7, text, 0.2, 0.5, -0.5, strength=strength)


REPORTED = TraceWarning("repetition", 1, "the last 24 tokens repeat", 2.0)
RELAXED = TraceWarning("collapse", 1, "0.010 nats", 2.0, new_strength=1.0)


def draw(figure):
    image = BytesIO()
    figure.savefig(image, dpi=40)
    return image.getvalue()


def test_a_page_shows_the_answer_text_unchanged_and_in_order():
    texts = ["Dear", " reader", ",", "\n\n", "    indented", "  ", "caf", "é", "", "🩺", "\t", ""]
    assert Page(trace_of(*texts).to_html()).text == "".join(texts)


@settings(max_examples=size(50, 20), deadline=None)
@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_text_survives_in_the_page(texts):
    assert Page(trace_of(*texts).to_html()).text == "".join(texts)


def test_hostile_text_stays_text():
    hostile = Trace((token(HOSTILE, candidates=[Candidate(HOSTILE, 0.5)]),), HOSTILE, 1.0)
    page = Page(hostile.to_html())
    harmless = Page(trace_of("a").to_html())
    assert page.text == HOSTILE
    assert page.tags == harmless.tags
    assert page.attributes == harmless.attributes
    assert "script" not in page.tags


def test_a_page_loads_nothing_and_forbids_scripts():
    page = trace_of("a", "b").to_html()
    assert not re.search(r"https?:|//|url\(|@import|src=|href=", page.lower())
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"" in page


def test_the_header_names_alignment_strength_mean_divergence_and_token_count():
    tokens = (token("a", divergence=0.1), token("b", divergence=0.3))
    page = Trace(tokens, "careful", 1.25).to_html()
    for shown in ("<h1>Steered by careful</h1>", "<dd>1.25</dd>", "<dd>0.200 nats</dd>", "<dd>2</dd>"):
        assert shown in page


def test_a_card_shows_a_tokens_figures_and_the_candidates_of_each_distribution():
    steered = TraceToken(
        7,
        " Yes\n",
        0.4321,
        0.5432,
        -1.2345,
        base=(Candidate(" No", 0.75), Candidate(" Perhaps", 0.00001)),
        instructed=(Candidate(" Yes\n", 0.625),),
        steered=(Candidate(" Yes\n", 0.875),),
    )
    (card,) = Page(Trace((steered,), "careful", 1.0).to_html()).cards
    assert " ".join(card.split()) == (
        "␣Yes↵ Divergence 0.432 nats Temperature 0.543 Log-probability -1.234 "
        "Base context ␣No 75.0% ␣Perhaps <0.1% Instructed context ␣Yes↵ 62.5% After steering ␣Yes↵ 87.5%"
    )


def test_the_chosen_token_stands_out_among_the_candidates():
    page = Trace((token("a", candidates=[Candidate("b", 0.6), Candidate("a", 0.4)]),), "careful", 1.0).to_html()
    assert re.findall(r'class="chosen"[^>]*><i>(.*?)</i>', page) == ["a", "a", "a"]


def test_a_plain_answer_has_one_distribution():
    plain = Trace((token("a", divergence=0.0, candidates=[Candidate("a", 0.5)]),))
    page = plain.to_html()
    (card,) = Page(page).cards
    assert "<h1>Plain answer</h1>" in page
    assert card.count("50.0%") == 1
    assert "steering" not in card


def test_tokens_without_ink_get_a_mark_to_point_at():
    page = trace_of("", "\n", " ", "x\n", "\u202e", "").to_html()
    assert re.findall(r'<span class="t (.*?)"', page) == ["blank", "line", "", "", "blank", "end"]


def test_every_token_can_be_reached_from_the_keyboard():
    assert trace_of("a", "b", "c").to_html().count('tabindex="0"') == 3


def test_an_empty_trace_has_a_page_a_text_and_a_plot():
    for empty in (Trace(()), Trace((), "careful", 1.0)):
        page = Page(empty.to_html())
        assert (page.text, page.cards) == ("", [])
        assert "0 tokens" in empty.to_text()
        assert draw(empty.plot())


@pytest.mark.parametrize(
    ("divergence", "shade"),
    [
        (-1e-9, 0.0),
        (0.0, 0.0),
        (math.log(2) / 2, 0.5),
        (math.log(2) + 1e-6, 1.0),
        (math.inf, 1.0),
        (math.nan, 0.0),
    ],
)
def test_shades_stay_between_none_and_full(divergence, shade):
    (style,) = Page(Trace((token("a", divergence=divergence),), "careful", 1.0).to_html()).styles
    assert style == f"--d:{shade};--h:0.5;--i:0"


def test_underlines_run_from_the_lowest_temperature_to_the_highest():
    tokens = tuple(token("a", temperature=temperature) for temperature in (0.4, 0.5, 0.6))
    styles = Page(Trace(tokens, "careful", 1.0).to_html()).styles
    assert [re.search("--h:([^;]+)", style)[1] for style in styles] == ["0.0", "0.5", "1.0"]


def test_the_page_of_a_long_answer_stays_small():
    candidates = [Candidate(" candidate", 0.3)] * 3
    long = Trace((token(" word", candidates=candidates),) * 3000, "careful", 1.0)
    assert len(long.to_html()) < 3_100_000  # about one kilobyte per token


def test_the_text_view_has_one_line_per_token_and_no_control_characters():
    trace = Trace((token("a\n", divergence=0.25, temperature=0.5), token("\x1b[31m")), "care\x1bful", 1.0)
    lines = str(trace).splitlines()
    assert lines[0] == "Steered by care\\x1bful: 2 tokens, mean divergence 0.225 nats"
    assert lines[2].split() == ["0.250", "0.500", r"'a\n'"]
    assert lines[3].split() == ["0.200", "0.500", r"'\x1b[31m'"]


def test_a_warning_says_what_was_seen_where_and_what_became_of_the_strength():
    assert str(REPORTED) == "repetition at token 1: the last 24 tokens repeat (strength 2)"
    assert str(RELAXED) == "collapse at token 1: 0.010 nats (strength 2, lowered to 1)"


def test_the_text_view_ends_with_the_warnings():
    tokens = (strong("a", 2.0), strong("b", 2.0))
    plain, warned = Trace(tokens, "careful", 2.0), Trace(tokens, "careful", 2.0, (REPORTED, REPORTED))
    assert warned.to_text() == "\n".join([plain.to_text(), *[f"Warning: {REPORTED}"] * 2])
    assert "Warning" not in plain.to_text()


def test_the_text_view_shows_the_strength_of_each_token_where_a_guard_has_lowered_it():
    tokens = (strong("a", 2.0), strong("b", 2.0), strong("c", 1.0))
    _, titles, *lines, last = Trace(tokens, "careful", 2.0, (RELAXED,)).to_text().splitlines()
    assert titles.split() == ["divergence", "temperature", "strength", "token"]
    assert [line.split()[2] for line in lines] == ["2", "2", "1"]
    assert last == f"Warning: {RELAXED}"
    assert len({line.index("'") for line in lines} | {titles.index("token")}) == 1


def test_a_page_shows_warnings_frames_their_tokens_and_adds_the_strength():
    tokens = (strong("a", 2.0), strong("b", 2.0), strong("c", 1.0))
    page = Trace(tokens, "careful", 2.0, (RELAXED,)).to_html()
    assert f"<li>{RELAXED}</li>" in page
    assert re.findall(r'<span class="t (.*?)"', page) == ["", " w", ""]
    assert [re.search(r"Strength (\S+)", card)[1] for card in Page(page).cards] == ["2", "2", "1"]
    assert Page(page).text == "abc"


def test_a_page_without_warnings_has_no_sign_of_them():
    page = trace_of("a").to_html()
    assert "<ul" not in page
    assert "dashed frame" not in page
    assert not any("Strength" in card for card in Page(page).cards)


def test_the_text_of_a_warning_stays_text():
    hostile, harmless = (
        Page(Trace((strong("a", 1.0),), "careful", 1.0, (TraceWarning("collapse", 0, detail, 1.0),)).to_html())
        for detail in (HOSTILE, "0.010 nats")
    )
    assert (hostile.tags, hostile.attributes) == (harmless.tags, harmless.attributes)


def test_a_plot_has_an_axis_for_divergence_and_one_for_temperature():
    left, right = trace_of("a", " b").plot().axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("divergence (nats)", "temperature")
    assert left.get_ylim() == (0, math.log(2))
    assert [label.get_text() for label in left.get_xticklabels()] == ["a", "␣b"]


def test_a_plot_draws_any_text_without_warnings():
    trace = Trace((*map(token, EXOTIC), token(" plain")), f"alignment {''.join(EXOTIC)}", 1.0)
    assert draw(trace.plot()).startswith(b"\x89PNG")


def test_a_plot_of_a_long_answer_names_only_some_tokens():
    left, _ = trace_of(*(["word"] * 1000)).plot().axes
    assert 40 <= len(left.get_xticklabels()) <= 60
    assert "1 in 17" in left.get_xlabel()


def test_a_plot_shortens_long_token_texts():
    left, _ = trace_of("x" * 500).plot().axes
    assert left.get_xticklabels()[0].get_text() == "x" * 15 + "…"


def test_a_plot_of_greedy_decoding_draws_temperature_zero():
    assert draw(Trace((token("a", temperature=0.0),), "careful", 1.0).plot())


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'sda-integrations[plot]'")):
        trace_of("a").plot()


def test_plotting_leaves_pyplot_alone():
    loaded_before = "matplotlib.pyplot" in sys.modules
    draw(trace_of("a").plot())
    assert ("matplotlib.pyplot" in sys.modules) == loaded_before


def spending(*spent):
    """A trace of tokens that spent these nats; those that spent nothing were decided by the base context."""
    tokens = [
        TraceToken(place, f" {place}", 0.1, 0.6, -1.0, position=0.4 if nats else 0.0, spent=nats)
        for place, nats in enumerate(spent)
    ]
    return Trace(tuple(tokens), alignment="custom", strength=1.0)


def test_what_an_answer_spent_is_told_as_a_whole_and_for_each_token():
    trace = spending(2.5, 0.0, 1.0)
    assert trace.spent == 3.5
    lines = trace.to_text().splitlines()
    assert lines[0].endswith("3.5 nats spent")
    assert lines[1].split() == ["divergence", "temperature", "spent", "token"]
    assert [line.split()[2] for line in lines[2:]] == ["2.50", "0.00", "1.00"]


def test_a_page_shows_what_was_spent_and_where_the_base_context_decided_alone():
    html = spending(2.5, 0.0).to_html()
    assert "<dt>Spent</dt><dd>2.5 nats</dd>" in html
    cards = Page(html).cards
    assert "2.50 nats, 40.0% of the way to the steered distribution" in cards[0]
    assert "0.00 nats, the base context alone" in cards[1]
    assert len(re.findall(r'<span class="t [^"]*alone"', html)) == 1


def test_without_a_budget_nothing_of_spending_is_shown():
    trace = Trace((TraceToken(1, "a", 0.1, 0.6, -1.0),), alignment="custom", strength=1.0)
    assert trace.spent is None
    assert "spent" not in (trace.to_text() + trace.to_html().split("</style>")[1]).lower()
