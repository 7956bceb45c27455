"""The report in Markdown."""

import re

import pytest

from sda_integrations.studies.report.markdown import markdown_of, markdown_table
from tests.sda_integrations.studies.report.hostile import hostile_results
from tests.sda_integrations.studies.report.made_up import made_up_results


def tables_in(text):
    return re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)


def cells_of(line):
    return re.split(r"(?<!\\)\|", line)[1:-1]


@pytest.mark.parametrize("results", [made_up_results(), hostile_results()])
def test_tables_are_well_formed(results):
    tables = tables_in(markdown_of(results))
    assert len(tables) >= 6
    for table in tables:
        lines = table.splitlines()
        assert re.fullmatch(r"(\|-{3,})+\|", lines[1])
        assert len({len(cells_of(line)) for line in (lines[0], *lines[2:])}) == 1
        assert len({len(line) for line in lines}) == 1  # columns stand below each other


def test_all_parts_are_there():
    results = made_up_results()
    text = markdown_of(results)
    parts = ["Effects", "Side effects", "Costs", "Comparisons", "Judges", "Failures", "Notes", "Protocol"]
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == parts
    assert "5f1c0d9a77be" in text
    comparisons = next(table for table in tables_in(text) if "p (Holm)" in table)
    assert len(comparisons.splitlines()) == 2 + len(results.comparisons)


def test_a_table_worked_out_by_hand():
    table = markdown_table(["Arm", "Time (s)"], [["a|b", "1.8"], ["漢字", "-"]])
    assert table == "| Arm  | Time (s) |\n|------|----------|\n| a\\|b | 1.8      |\n| 漢字 | -        |"


def test_names_with_underscores_stay_readable():
    assert "| my_arm |" in markdown_table(["Arm"], [["my_arm"]])
    assert "\\_x\\_" in markdown_table(["Arm"], [["_x_"]])
