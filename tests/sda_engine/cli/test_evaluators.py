"""`sda evaluators check`, run on a tiny engine as a user would run it."""

import json
import subprocess
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

import sda_engine.evaluators
from sda_engine.cli import make_app
from sda_engine.cli.evaluator_specs import SERVER_CONCURRENCY, make_evaluators
from sda_engine.cli.evaluator_views import describe_failures, describe_usage, evaluator_table
from sda_engine.errors import ConfigError
from sda_engine.evaluation.evaluator_report import EvaluatorRatings, Rating, make_report
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    FixedScore,
    OpenAIEvaluator,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)
from sda_engine.evaluators.protocol import EvaluatorUsage
from tests.floats import SCORE
from tests.sda_engine.evaluation.ratings import pair

pytestmark = pytest.mark.usefixtures("loads")

TWO = ("--evaluator", "contrastive", "--evaluator", "fixed:30")
LINES = [
    {"query": "is it so", "response": "yes", "label": True},
    {"query": "is it so", "response": "the lazy dog", "label": False},
    {"query": "who is it", "response": "the fox", "label": False},
]


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch):
    """An interval of few resamples, which takes no seconds."""
    quick = partial(make_report, resamples=10)
    monkeypatch.setattr("sda_engine.evaluation.evaluator_check.make_report", quick)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


def check(*arguments):
    return CliRunner().invoke(make_app(), ["evaluators", "check", *map(str, arguments)])


def assert_refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (message,) = result.stderr.splitlines()
    assert message.startswith("Error: ")
    for word in words:
        assert word in message


class TestCheck:
    def test_prints_a_row_per_evaluator_and_per_two_of_them(self, pairs):
        result = check(pairs, *TWO)
        assert result.exit_code == 0, result.output
        for word in ("contrastive", "fixed:30", "30.0", "AUC", "0.50", "Kendall", "contrastive · fixed:30"):
            assert word in result.stdout
        assert "Spearman" not in result.stdout  # nobody has given ratings
        assert "usage" not in result.stdout

    def test_json_tells_all_figures_and_nothing_else_is_on_stdout(self, pairs, engine):
        told = json.loads(check(pairs, *TWO, "--repeats", 2, "--json").stdout)
        assert told["engine"] == engine.describe()
        assert (told["pairs"], told["repeats"]) == (3, 2)
        contrastive, fixed = told["evaluators"]
        assert (contrastive["name"], contrastive["calls"], contrastive["failures"]) == ("contrastive", 6, 0)
        assert (fixed["mean"], fixed["spread"]["largest"], fixed["labels"]["auc"]["value"]) == (30, 0, 0.5)
        assert told["agreements"][0]["pairs"] == 3

    def test_rates_for_the_alignment_that_is_asked_for(self, pairs, engine):
        (figures,) = json.loads(
            check(pairs, "--evaluator", "contrastive", "--alignment", "Be calm.", "--limit", 1, "--json").stdout
        )["evaluators"]
        messages = [{"role": "user", "content": "is it so"}]
        expected = engine.rate(messages, "yes", "Be calm.", ContrastiveEvaluator())
        assert figures["mean"] == pytest.approx(expected.value, abs=SCORE)
        assert figures["pairs"] == 1

    def test_rates_for_several_alignments_together(self, pairs, engine):
        several = ("--alignment", "Be calm.", "--alignment", "honesty:3")
        (figures,) = json.loads(check(pairs, "--evaluator", "contrastive", *several, "--limit", 1, "--json").stdout)[
            "evaluators"
        ]
        messages = [{"role": "user", "content": "is it so"}]
        expected = engine.rate(messages, "yes", {"Be calm.": 1, "honesty": 3}, ContrastiveEvaluator())
        assert figures["mean"] == pytest.approx(expected.value, abs=SCORE)

    def test_a_failing_evaluator_is_told_and_not_fatal(self, tmp_path):
        path = tmp_path / "empty.jsonl"
        path.write_text('{"query": "hi", "response": ""}')
        result = check(path, *TWO)
        assert result.exit_code == 0
        assert "contrastive gave no score in 3 of 3 calls, mostly: EvaluationError" in result.stderr
        assert "(100%)" in result.stdout

    def test_draws_a_plot(self, pairs, tmp_path):
        plot = tmp_path / "plot.svg"
        result = check(pairs, *TWO, "--plot", plot)
        assert plot.read_text().lstrip().startswith("<?xml")
        assert str(plot) in result.stderr

    def test_a_plot_that_cannot_be_written_is_an_error(self, pairs, tmp_path, monkeypatch):
        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("sda_engine.cli.evaluators.save_calibration", refuse)
        result = check(pairs, "--evaluator", "fixed", "--plot", tmp_path / "plot.svg")
        assert result.exit_code == 2
        assert "Permission denied. Choose another file." in result.stderr

    def test_model_options_reach_the_engine(self, pairs, loads):
        check(pairs, "--evaluator", "fixed", "--model", "other", "--device", "cpu", "--dtype", "float32")
        assert loads == [("other", {"device": "cpu", "dtype": "float32"})]


class TestErrors:
    def test_a_malformed_line_is_told_with_its_number_before_any_work(self, pairs, loads):
        pairs.write_text(pairs.read_text() + '\n{"query": "a"}')
        assert_refused(check(pairs, *TWO), "line 4", "response is missing")
        assert loads == []

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--evaluator", "nonsense"), ("'nonsense'", "openai:gpt-4.1")),
            (("--evaluator", "openai:"), ("'openai:'",)),
            (("--evaluator", "reward"), ("'reward'", "reward:MODEL")),
            (("--evaluator", "self-rating:3"), ("'self-rating:3'",)),
            (("--evaluator", "fixed:0"), ("'fixed:0'", "at most 100")),
            (("--evaluator", "fixed:many"), ("'fixed:many'",)),
            (("--evaluator", "contrastive:sharpness=0"), ("sharpness", "above 0")),
            (("--evaluator", "contrastive:warmth=2"), ("'warmth=2'", "sharpness=NUMBER")),
            (("--evaluator", "fixed", "--evaluator-url", "http://localhost/v1"), ("--evaluator-url", "openai:MODEL")),
            (("--evaluator", "fixed", "--evaluator", "fixed"), ("'fixed' is given twice",)),
            (("--alignment", " "), ("blank",)),
        ],
    )
    def test_wrong_options_are_told_in_one_line(self, pairs, arguments, words):
        assert_refused(check(pairs, *arguments), *words)

    @pytest.mark.parametrize("place", ["", "missing/plot.svg", "plot.txt"])
    def test_a_plot_without_a_place_is_refused_before_any_work(self, pairs, tmp_path, loads, place):
        assert_refused(check(pairs, *TWO, "--plot", tmp_path / place), ".svg", "folder that exists")
        assert loads == []

    def test_a_plot_of_nothing_is_refused_before_any_work(self, tmp_path, loads):
        path = tmp_path / "bare.jsonl"
        path.write_text('{"query": "a", "response": "b"}')
        assert_refused(check(path, *TWO, "--plot", tmp_path / "plot.svg"), '"label"', '"score"')
        assert loads == []

    def test_a_missing_extra_is_told_before_any_work(self, pairs, loads, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == "sklearn" else object())
        assert_refused(check(pairs, *TWO), "sklearn, which is not installed", "sda-integrations[report]")
        assert loads == []


class TestSpecs:
    def test_evaluators_by_name(self):
        names = ["contrastive", "contrastive:sharpness=2", "fixed", "fixed:12.5", "openai:org/judge:8b"]
        plain, sharp, fixed, low, judge = make_evaluators(names, "http://localhost:8000/v1")
        assert (plain.evaluator.sharpness, sharp.evaluator.sharpness) == (4, 2)
        assert (fixed.evaluator, low.evaluator) == (FixedScore(), FixedScore(12.5))
        assert isinstance(judge.evaluator, OpenAIEvaluator)
        assert "localhost:8000" in judge.evaluator.name
        assert [one.name for one in (plain, sharp, fixed, low, judge)] == names

    def test_only_servers_are_asked_for_several_ratings_at_a_time(self):
        local, judge = make_evaluators(["contrastive", "openai:judge"], "http://localhost:8000/v1")
        assert (local.concurrency, judge.concurrency) == (1, SERVER_CONCURRENCY)

    def test_openai_itself_needs_a_key(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            make_evaluators(["openai:gpt-4.1"])

    def test_a_reward_model_is_made_from_what_follows_the_first_colon(self, monkeypatch):
        monkeypatch.setattr(sda_engine.evaluators, "RewardModelEvaluator", lambda *given: given, raising=False)
        (one,) = make_evaluators(["reward:org/judge:v2"])
        assert one.evaluator == ("org/judge:v2",)

    def test_without_a_name_those_that_need_the_model_alone_are_checked(self):
        kinds = [type(one.evaluator) for one in make_evaluators([])]
        assert kinds == [ContrastiveEvaluator, SelfRatingEvaluator, UncertaintyEvaluator]


class TestViews:
    def test_usage_is_shown_where_it_is_told(self):
        usage = EvaluatorUsage(calls=2, prompt_tokens=30, completion_tokens=4, cost=0.25)
        assert describe_usage(usage) == "2 calls\n30 + 4 tokens\ncost 0.2500"
        rated = EvaluatorRatings("one", [[Rating(50, 1.0, usage=usage)]])
        titles = [column.header for column in evaluator_table(make_report([pair()], [rated])).columns]
        assert titles == [
            "evaluator",
            "rated",
            "failures",
            "mean\ndeviation",
            "seconds: median\n95th percentile",
            "usage",
        ]

    def test_a_long_error_is_shortened_to_one_line(self):
        rated = EvaluatorRatings("one", [[Rating(None, 1.0, "Error:\n" + "x" * 1000)]])
        (figures,) = make_report([pair()], [rated]).evaluators
        told = describe_failures(figures)
        assert told.startswith("one gave no score in 1 of 1 calls, mostly: Error: xxx")
        assert len(told) < 400
        assert "\n" not in told


def test_help_of_the_command_imports_nothing_heavy():
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from sda_engine.cli import make_app\n"
        "result = CliRunner().invoke(make_app(), ['evaluators', 'check', '--help'])\n"
        "assert result.exit_code == 0 and 'sharpness' in result.output\n"
        "json.dump(list(sys.modules), sys.stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert not {"torch", "transformers", "openai", "sklearn", "scipy", "numpy"} & set(json.loads(done.stdout))
