"""The page, its Markdown and results.json of a made-up study."""

import re
from html.parser import HTMLParser

import pytest

from sda_integrations.studies.report.markdown import markdown_of
from sda_integrations.studies.report.numbers import shown
from sda_integrations.studies.report.page import page_of
from sda_integrations.studies.report.readings import Readings, standing
from sda_integrations.studies.report.tables import Cell, multiples_of, tables_of
from sda_integrations.studies.report.verdicts import warnings
from sda_integrations.studies.results import Figure, JudgeReport, ShownToken
from tests.sda_integrations.studies.report.hostile import HOSTILE, hostile_results
from tests.sda_integrations.studies.report.made_up import ARMS, made_up_results

VOID = {"meta", "br", "img", "link"}


class Outline(HTMLParser):
    """Elements, ids, links and text of a page; notes tags that do not nest."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links, self.open, self.wrong, self.text = [], [], [], [], [], []
        self.attributes = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def results():
    return made_up_results()


@pytest.fixture(scope="module")
def page(results):
    return page_of(results)


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_hostile_text_stays_text():
    page = page_of(hostile_results())
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "img" not in outline.tags
    assert not [name for _, given in outline.attributes for name in given if name.startswith("on")]
    assert not outline.wrong
    assert "\u202e" not in page
    assert "\x00" not in page
    shown_whole = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "\\x00")
    text = "".join(outline.text)
    assert text.count(shown_whole) > 25  # one per place, the cut labels of drawings aside
    assert "49" not in re.findall(r"\b49\b", text)


def test_the_page_needs_nothing_but_itself(page, outline):
    assert "//" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in page
    assert "@import" not in page
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert all(link.startswith("#") for link in outline.links)
    assert "default-src 'none'" in page


def test_elements_nest_and_contents_lead_to_sections(outline):
    assert not outline.wrong
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    labelled = [given["aria-labelledby"] for _, given in outline.attributes if "aria-labelledby" in given]
    assert labelled
    assert set(labelled) <= set(outline.ids)


def test_tables_and_drawings_can_be_heard(outline):
    assert outline.tags.count("caption") == outline.tags.count("table")
    assert all(given.get("scope") for tag, given in outline.attributes if tag == "th")
    drawings = [given for tag, given in outline.attributes if tag == "svg"]
    assert all(given.get("aria-hidden") == "true" or len(given["aria-label"]) > 40 for given in drawings)


def test_every_arm_and_every_figure_is_on_the_page(results, outline):
    text = " ".join(outline.text)
    labels = " ".join(given.get("aria-label", "") for _, given in outline.attributes)
    units = {measure.name: measure.unit for measure in results.measures}
    assert all(arm.name in text for arm in results.arms)
    cells = {part.strip() for part in outline.text}
    for figure in results.figures:
        value = shown(figure.value, units[figure.measure])
        if figure.category is None:
            assert value in cells
        else:
            assert f"{figure.category}: {value} (" in labels


def test_told_differences_are_marked_with_words(results, outline):
    text = " ".join(outline.text)
    assert "▲\xa0+21.0\xa0better" in text
    assert "▼\xa0-17\xa0worse" in text
    assert "▲\xa0+38\xa0more" in text  # length: neither way is better


def columns_of(table):
    """Task and measure of each column."""
    tasks = [task for task, count, _ in table.groups for _ in range(count)]
    return list(zip(tasks, table.columns, strict=True))


def cell(readings, arm, task, measure):
    """What the tables of effects say."""
    for table in tables_of(readings, "effect"):
        for place, (of, column) in enumerate(columns_of(table)):
            if (of, column.name) == (task, measure):
                return dict(table.rows)[arm][place]
    raise AssertionError("there is no such column")


def test_a_rate_of_wins_is_no_figure_of_the_baseline_and_its_mark_repeats_no_number(results):
    rate = Figure(arm="steered 2", task="truthful-qa", measure="win_rate", value=0.42, low=0.21, high=0.63, count=120)
    readings = Readings(made_up_results(figures=(*results.figures, rate)))
    assert cell(readings, "plain", "truthful-qa", "win_rate") == Cell("0")
    assert cell(readings, "steered 2", "truthful-qa", "win_rate") == Cell("42", "21 to 63", "", "better")


def test_a_rate_of_wins_over_another_arm_says_nothing_of_the_baseline(results):
    name = "win_rate over corrector"
    rate = Figure(arm="steered 2", task="truthful-qa", measure=name, value=0.42, low=0.21, high=0.63, count=120)
    readings = Readings(made_up_results(figures=(*results.figures, rate)))
    assert cell(readings, "plain", "truthful-qa", name) == Cell("-")
    assert cell(readings, "steered 2", "truthful-qa", name) == Cell("42", "21 to 63")


def test_an_effect_that_many_tasks_have_is_a_table_with_a_column_a_task(results):
    tables = tables_of(Readings(results), "effect")
    shared = [table for table in tables if len({measure.name for measure in table.columns}) == 1]
    assert shared
    for table in shared:
        assert [task for task, *_ in table.groups] == [task for task in results.tasks if task in table.caption]
    columns = [(task, measure.name) for table in tables for task, measure in columns_of(table)]
    assert sorted(columns) == sorted((task, measure.name) for task, measure in Readings(results).columns("effect"))


def test_an_absent_figure_is_not_replaced_by_a_difference(results):
    kept = tuple(figure for figure in results.figures if (figure.arm, figure.measure) != ("corrector", "helpful"))
    rows = dict(tables_of(Readings(made_up_results(figures=kept)), "effect")[0].rows)
    assert rows["corrector"][0] == Cell("-")


def test_a_figure_of_fewer_samples_says_so(results):
    figure = results.figures[0].model_copy(update={"count": 7})
    readings = Readings(made_up_results(figures=(figure, *results.figures[1:])))
    assert dict(tables_of(readings, "effect")[0].rows)[figure.arm][0].count == "n=7"


@pytest.mark.parametrize(
    ("value", "adjusted_p", "better", "expected"),
    [
        (0.2, 0.01, "higher", "better"),
        (0.2, 0.01, "lower", "worse"),
        (-0.2, 0.01, "lower", "better"),
        (-0.2, 0.01, "neither", "less"),
        (0.2, 0.05, "higher", None),
        (0.2, None, "higher", None),
        (0.0, 0.01, "higher", None),
    ],
)
def test_a_difference_is_told_only_after_correction(results, value, adjusted_p, better, expected):
    row = results.comparisons[0].model_copy(update={"value": value, "p": 0.0001, "adjusted_p": adjusted_p})
    assert standing(row, results.measures[0].model_copy(update={"better": better})) == expected


def test_verdicts_tell_above_below_and_open(outline):
    text = " ".join(outline.text)
    assert "steered 2 (+12.6 to +21.0 in all 4 tasks)" in text
    assert "below plain: corrector (-16 in all 3 tasks)" in text
    assert "no difference can be told for instruction in the prompt." in text


def test_multiples_weigh_tasks_by_their_samples():
    def seconds(arm, task, value, count):
        return Figure(arm=arm, task=task, measure="seconds", value=value, low=None, high=None, count=count)

    figures = (
        seconds("plain", "a", 1.0, 30),
        seconds("plain", "b", 2.0, 10),
        seconds("corrector", "a", 2.0, 30),
        seconds("corrector", "b", 8.0, 10),
        seconds("plain", "c", 90.0, 10),  # the corrector was not timed there
    )
    study = made_up_results(figures=figures, tasks={"a": 30, "b": 10, "c": 10}, comparisons=())
    _, rows = multiples_of(Readings(study))
    assert dict(rows)["corrector"] == ("2.8x",)  # (30 * 2 + 10 * 8) / (30 * 1 + 10 * 2)
    assert dict(rows)["steered 1"] == ("-",)


def test_warnings_name_what_makes_figures_unsure(outline):
    text = " ".join(outline.text)
    assert "Few samples: safe-prompts (40)." in text
    assert "22 verdicts of judge-a could not be read, 1% of those asked for." in text
    assert "judge-a turned 37% of its verdicts" in text
    assert "judge-b turned" not in text
    assert "2 failures" in text


def test_tokens_are_shaded_and_changed_ones_underlined():
    tokens = (
        ShownToken(text="Yes", divergence=0.0, changed=False),
        ShownToken(text=" it", divergence=0.34657, changed=True),
        ShownToken(text=" is", divergence=0.6931, changed=False),
    )
    example = made_up_results().examples[0].model_copy(update={"tokens": tokens, "arm": "steered 1"})
    page = page_of(made_up_results(examples=(example,)))
    assert 'Yes<u style="--d:.50"> it</u><span style="--d:1.00"> is</span>' in page
    assert "1 of 3 tokens changed, mean divergence 0.35 nats" in page


def test_empty_parts_are_left_out():
    bare = made_up_results(
        figures=(), comparisons=(), judges=(), agreements=(), stages=(), examples=(), failures=(), notes=(), protocol={}
    )
    outline = Outline(page_of(bare))
    assert [name for name in outline.ids if not name.startswith("h-")] == ["verdict"]
    assert "table" not in outline.tags
    assert "|" not in markdown_of(bare)


def test_a_page_with_very_much_stays_under_a_megabyte(results):
    token = ShownToken(text=" words", divergence=0.3, changed=True)
    long = results.examples[4].model_copy(update={"tokens": (token,) * 800, "answer": " words" * 800})
    category = results.figures[-1]
    many = tuple(
        category.model_copy(
            update={"category": f"category {index}", "arm": arm.name, "task": task, "measure": measure.name}
        )
        for index in range(40)
        for arm in ARMS
        for task in results.tasks
        for measure in results.measures
    )
    failure = results.failures[0].model_copy(update={"error": "x" * 5000})
    page = page_of(made_up_results(examples=(long,) * 30, figures=results.figures + many, failures=(failure,) * 900))
    assert len(page.encode()) < 1_000_000
    assert "more examples in results.json" in page
    assert "700 more failures in results.json" in page
    assert "10 more with fewer samples are in results.json" in page


def test_the_digest_stands_outside_the_folded_protocol(page):
    assert "<summary>Digest <code>5f1c0d9a77be</code></summary>" in page


@pytest.mark.parametrize(("share", "warned"), [(0.77, True), (0.2, True), (0.55, False), (None, False)])
def test_a_judge_that_prefers_a_place_is_warned_of(share, warned):
    judge = JudgeReport(name="mine", verdicts=9, unreadable=0, order_bias=0.1, first_share=share)
    found = [one for one in warnings(made_up_results(judges=(judge,))) if "prefers a place" in one]
    assert bool(found) == warned
