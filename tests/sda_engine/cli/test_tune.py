"""`sda tune`, run on a tiny engine as a user would run it."""

import json

import pytest
from typer.testing import CliRunner

from sda_engine.cli import make_app
from sda_engine.cli.tune import advice
from sda_engine.config import Steering
from sda_engine.evaluation import Estimate, TunedArm

pytestmark = pytest.mark.usefixtures("loads")

CASES = [{"question": "what is in the library?", "keep": ["fox"]}, {"question": "who is it?"}]
FEW = ("--alignment", "be kind", "--word", "fox", "--max-tokens", "3")


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(map(json.dumps, CASES)))
    return path


def tune(*arguments):
    return CliRunner().invoke(make_app(), ["tune", *map(str, arguments)])


def test_it_prints_a_table_with_a_row_for_each_setting_and_what_to_use(cases):
    result = tune(cases, *FEW)
    assert result.exit_code == 0, result.output
    for text in ("2 questions", "plain", "in the prompt", "paper, strength 2", "revise, strength 1", "degenerate"):
        assert text in result.stdout
    assert "No setting does better" in result.stdout


def test_json_holds_every_figure_and_the_plane_is_drawn(cases, tmp_path):
    picture = tmp_path / "plane.svg"
    result = tune(cases, *FEW, "--json", "--plot", picture, "--limit", "1")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["questions"], told["recommended"]) == (1, None)
    assert told["arms"][0].keys() >= {"name", "kept", "follows", "both", "degenerate", "seconds", "steering"}
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alignment", "be kind"), "Give one of --follows, --word, --evaluator"),
        (("--alignment", "be kind", "--word", "a", "--follows", "b"), "given: 2"),
        (("--alignment", "be kind", "--follows", "("), "no regular expression"),
        (("--alignment", "be kind", "--evaluator", "fixed:50"), "give a judge or a pattern"),
        ((*FEW, "--plot", "plane.txt"), "cannot be written"),
    ],
)
def test_what_cannot_work_is_said_before_the_model_is_loaded(cases, loads, arguments, message):
    result = tune(cases, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not loads


def test_the_advice_can_be_pasted():
    one = Estimate(0.5, None, None)
    best = TunedArm("x", Steering(policy="revise", gain=4.0, amplification=0.5), one, one, one, one, 1.0)
    text = advice(best, ["empathy"])
    assert "Steering(policy='revise', gain=4.0, amplification=0.5)" in text
    assert "sda generate --alignment 'empathy' --policy revise --gain 4.0 --amplification 0.5" in text
    assert "no option" not in text
    text = advice(best, ["empathy:2", "Be brief."])
    assert "ChatSDA(alignment=[('empathy', 2.0), ('Be brief.', 1.0)], steering=steering)" in text
    assert "sda generate --alignment 'empathy:2' --alignment 'Be brief.' --policy revise" in text


def test_several_alignments_are_tuned_together(cases):
    result = tune(cases, *FEW, "--alignment", "honesty:0.5", "--limit", "1")
    assert result.exit_code == 0, result.output
    assert "plain" in result.stdout
