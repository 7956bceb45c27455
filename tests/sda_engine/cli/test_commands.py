"""The `sda` command, run on a tiny engine as a user would run it."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from sda_engine import PRESETS, Sampling, Steering, SteeringEngine
from sda_engine.cli import COMMAND_GROUP, make_app
from sda_engine.cli.evaluator_specs import make_evaluator
from sda_engine.cli.options import RequestOptions
from sda_engine.cli.requests import combined, make_alignment, make_request
from sda_engine.errors import ConfigError, ModelLoadError, SDAError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore, OpenAIEvaluator, SelfRatingEvaluator
from tests.conftest import user

pytestmark = pytest.mark.usefixtures("loads")

SHORT = ("--max-new-tokens", "8", "--seed", "1")


def sda(*arguments, stdin=None):
    return CliRunner().invoke(make_app(), list(arguments), input=stdin)


def expected(engine, prompt, alignment="helpfulness", **steering):
    return engine.generate(
        user(prompt), alignment, steering=Steering(**steering), sampling=Sampling(max_new_tokens=8, seed=1)
    )


def assert_refused(result, *words):
    """Exit code 2 and one line on stderr with these words; nothing on stdout, and no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (message,) = result.stderr.splitlines()
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    for word in words:
        assert word in message


class TestGenerate:
    def test_writes_the_answer_and_nothing_else_to_stdout(self, engine):
        result = sda("generate", "hello", *SHORT)
        assert result.exit_code == 0
        assert result.stdout == expected(engine, "hello").text + "\n"

    def test_tells_the_figures_in_one_line_on_stderr(self):
        result = sda("generate", "hello", *SHORT)
        (line,) = result.stderr.splitlines()
        for figure in ("8 tokens", "alignment helpfulness", "score 50.0 (FixedScore(50))", "amplification 0.46"):
            assert figure in line

    def test_writes_every_piece_as_it_comes(self, engine, monkeypatch):
        echoed = []
        monkeypatch.setattr("sda_engine.cli.generate.typer.echo", lambda text="", **_: echoed.append(text))
        sda("generate", "hello", *SHORT)
        pieces = [piece.text for piece in engine.stream(user("hello"), "helpfulness", sampling=_short()) if piece.text]
        assert len(pieces) > 1
        assert echoed == [*pieces, ""]

    def test_json_tells_text_usage_and_figures(self, engine):
        result = sda("generate", "hello", "--json", *SHORT)
        told, done = json.loads(result.stdout), expected(engine, "hello")
        assert told["text"] == done.text
        assert told["usage"]["completion_tokens"] == done.usage.completion_tokens
        assert told["alignment"] == "helpfulness"
        assert told["amplification"] == done.amplification
        assert told["score"]["value"] == 50
        assert told["engine"] == engine.describe()

    def test_options_reach_the_engine(self, engine, loads):
        result = sda(
            "generate", "hello", *SHORT, "--alignment", "honesty", "--gain", "3", "--evaluator", "fixed:20",
            "--plausibility", "0.1", "--model", "other", "--device", "cpu", "--dtype", "float32",
        )  # fmt: skip
        answer = expected(engine, "hello", "honesty", gain=3.0, plausibility=0.1, evaluator=FixedScore(20))
        assert result.stdout == answer.text + "\n"
        assert loads == [("other", {"device": "cpu", "dtype": "float32"})]

    def test_a_scope_that_leaves_out_the_text_gives_the_plain_one(self, engine):
        result = sda("generate", "hello", "--scope", "thought", *SHORT)
        assert result.stdout == expected(engine, "hello", None).text + "\n"
        result = sda("generate", "hello", "--scope", "text", *SHORT)
        assert result.stdout == expected(engine, "hello").text + "\n"

    def test_plain_answers_from_the_base_context_alone(self, engine):
        result = sda("generate", "hello", "--plain", *SHORT)
        assert result.stdout == expected(engine, "hello", None).text + "\n"
        assert "amplification" not in result.stderr

    def test_a_dash_reads_the_prompt_from_stdin(self, engine):
        result = sda("generate", "-", *SHORT, stdin="hello")
        assert result.stdout == expected(engine, "hello").text + "\n"

    def test_an_evaluator_that_needs_one_gets_a_base_response(self):
        result = sda("generate", "hello", "--evaluator", "contrastive", "--json", *SHORT)
        told = json.loads(result.stdout)
        assert told["base_response"]
        assert told["score"]["evaluator"].startswith("ContrastiveEvaluator")

    def test_writes_a_trace_page(self, tmp_path):
        page = tmp_path / "trace.html"
        result = sda("generate", "hello", "--trace", str(page), *SHORT)
        assert page.read_text().lstrip().lower().startswith("<!doctype html>")
        assert str(page) in result.stderr

    @pytest.mark.parametrize("place", ["", "missing/trace.html"])
    def test_a_trace_without_a_place_is_refused_before_any_work(self, tmp_path, loads, place):
        assert_refused(sda("generate", "hello", "--trace", str(tmp_path / place)), "in a folder that exists")
        assert loads == []

    def test_a_trace_that_cannot_be_written_is_an_error(self, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.write_text", refuse)
        result = sda("generate", "hello", "--trace", str(tmp_path / "trace.html"), *SHORT)
        assert result.exit_code == 2
        assert "Permission denied. Choose another file." in result.stderr


class TestSeveralAlignments:
    BOTH = ("--alignment", "honesty:2", "--alignment", "Answer as a poet.")

    def test_generate_combines_them_by_their_weights(self, engine):
        told = json.loads(sda("generate", "hello", *self.BOTH, "--json", *SHORT).stdout)
        assert told["alignment"] == "honesty+custom"
        assert told["text"] == expected(engine, "hello", {"honesty": 2, "Answer as a poet.": 1}).text

    def test_compare_shows_their_mixture_with_and_without_steering(self, engine):
        told = json.loads(sda("compare", "hello", *self.BOTH, "--avoid", "rude text", "--json", *SHORT).stdout)
        assert list(told["answers"]) == ["base", "instructed", "steered"]
        assert [weight for _, weight in told["alignment"]["parts"]] == [2.0, 1.0]
        assert told["alignment"]["avoid"] == "rude text"
        mixture = expected(engine, "hello", {"honesty": 2, "Answer as a poet.": 1}, amplification=0.0)
        assert told["answers"]["instructed"]["text"] == mixture.text

    def test_one_alone_is_all_text_and_several_end_with_their_weights(self):
        assert combined(["Mix them 3:1"]) == "Mix them 3:1"
        assert combined(["honesty", "Mix them 3:1:0.5"]) == [("honesty", 1.0), ("Mix them 3:1", 0.5)]
        assert combined(["Say this: hello", "empathy: 2"]) == [("Say this: hello", 1.0), ("empathy", 2.0)]

    def test_mistakes_are_told(self, loads):
        wrong = sda("generate", "hi", "--alignment", "honesty:-1", "--alignment", "empathy")
        assert_refused(wrong, "The weight of 'honesty' cannot be -1.0", "finite number above 0")
        assert_refused(sda("generate", "hi", "--plain", "--alignment", "honesty"), "--alignment has no effect")
        assert not loads


class TestCompare:
    def test_shows_three_answers_side_by_side(self):
        result = sda("compare", "hello", *SHORT)
        assert result.exit_code == 0
        for word in ("base", "instructed", "steered", "not steered", "mean divergence", "seed 1"):
            assert word in result.stdout

    def test_json_tells_all_three_and_what_they_share(self, engine):
        told = json.loads(sda("compare", "hello", "--json", *SHORT).stdout)
        assert told["seed"] == 1
        assert told["alignment"]["name"] == "helpfulness"
        assert {name: answer["text"] for name, answer in told["answers"].items()} == {
            "base": expected(engine, "hello", None).text,
            "instructed": expected(engine, "hello", amplification=0.0).text,
            "steered": expected(engine, "hello").text,
        }

    def test_without_a_seed_all_answers_share_a_fresh_one(self, engine):
        first, second = (json.loads(sda("compare", "hi", "--json", "--max-new-tokens", "4").stdout) for _ in range(2))
        assert first["seed"] != second["seed"]
        again = engine.generate(user("hi"), None, sampling=Sampling(max_new_tokens=4, seed=first["seed"]))
        assert first["answers"]["base"]["text"] == again.text

    def test_an_alignment_that_only_avoids_has_no_instructed_answer(self):
        told = json.loads(sda("compare", "hello", "--avoid", "rude text", "--json", *SHORT).stdout)
        assert list(told["answers"]) == ["base", "steered"]
        assert told["alignment"]["instruction"] is None


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("generate", "   "), ("prompt is blank",)),
            (("generate", "hi", "--gain", "-1"), ("Steering.gain", "-1")),
            (("generate", "hi", "--temperature", "-1"), ("Sampling.temperature",)),
            (("generate", "hi", "--alignment", " "), ("blank",)),
            (("generate", "hi", "--plain", "--gain", "1"), ("--plain", "--gain")),
            (("generate", "hi", "--plain", "--avoid", "x"), ("--plain", "--avoid")),
            (("generate", "hi", "--plain", "--scope", "text"), ("--plain", "--scope")),
            (
                ("generate", "hi", "--scope", "words"),
                ("Steering.scope", "'words'", "answer, text, thought, calls, all"),
            ),
            (("generate", "hi", "--amplification", "1", "--evaluator", "fixed"), ("one of the two",)),
            (("generate", "hi", "--evaluator", "gpt-4.1"), ("'gpt-4.1'", "openai:gpt-4.1")),
            (("generate", "hi", "--evaluator", "fixed:0"), ("'fixed:0'", "above 0")),
            (("generate", "hi", "--evaluator", "openai:"), ("'openai:'",)),
            (("compare", "hi", "--evaluator-url", "http://localhost/v1"), ("openai:MODEL",)),
        ],
    )
    def test_wrong_options_are_told_in_one_line(self, arguments, words):
        assert_refused(sda(*arguments), *words)

    def test_a_failing_engine_is_told_in_one_line(self, monkeypatch):
        def load(*_, **__):
            raise ModelLoadError("No model is called [bold]nonsense[/bold].")

        monkeypatch.setattr(SteeringEngine, "load", load)
        assert_refused(sda("generate", "hi"), "No model is called [bold]nonsense[/bold].")

    def test_debug_lets_the_traceback_through(self):
        result = sda("generate", "hi", "--gain", "-1", "--debug")
        assert isinstance(result.exception, ConfigError)

    def test_an_interrupt_ends_with_130(self, monkeypatch):
        def load(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(SteeringEngine, "load", load)
        assert sda("generate", "hi").exit_code == 130

    @pytest.mark.filterwarnings("always::sda_engine.AlignmentWarning")
    def test_a_warning_about_the_alignment_is_told_once(self):
        result = sda("compare", "hi", "--alignment", "Do not mention cats.", *SHORT)
        assert result.stderr.count("Note: ") == 1
        assert "backfire" in result.stderr

    @pytest.mark.filterwarnings("always::UserWarning")
    def test_warnings_of_libraries_are_shown_with_debug_only(self, monkeypatch, engine):
        def load(*_, **__):
            import warnings

            warnings.warn("a library's worry", UserWarning, stacklevel=1)
            return engine

        monkeypatch.setattr(SteeringEngine, "load", load)
        assert "worry" not in sda("generate", "hi", *SHORT).stderr
        assert "worry" in sda("generate", "hi", "--debug", *SHORT).stderr

    def test_what_the_engine_logs_is_shown(self, monkeypatch, engine):
        def load(*_, **__):
            import logging

            logging.getLogger("sda_engine.models.gguf_conversion").info("Converting a file")
            return engine

        monkeypatch.setattr(SteeringEngine, "load", load)
        assert "Converting a file" in sda("generate", "hi", *SHORT).stderr


class TestOptions:
    def test_what_is_not_given_is_the_engines_default(self):
        request = make_request("hi", RequestOptions())
        assert request.steering == Steering()
        assert request.sampling == Sampling()
        assert request.alignment == PRESETS["helpfulness"]

    def test_a_system_message_comes_first(self):
        request = make_request("hi", RequestOptions(system="Be brief.", stop=["\n", "END"]))
        assert request.messages == [{"role": "system", "content": "Be brief."}, *user("hi")]
        assert request.sampling.stop == ("\n", "END")

    def test_avoid_joins_a_preset_or_an_instruction(self):
        preset = make_alignment(["honesty"], "guesses")
        assert (preset.instruction, preset.avoid) == (PRESETS["honesty"].instruction, "guesses")
        own = make_alignment(["Be calm."], "shouting")
        assert (own.instruction, own.avoid) == ("Be calm.", "shouting")

    def test_evaluators_by_name(self):
        assert make_evaluator("fixed") == FixedScore()
        assert make_evaluator("fixed:12.5") == FixedScore(12.5)
        assert isinstance(make_evaluator("contrastive"), ContrastiveEvaluator)
        assert isinstance(make_evaluator("self-rating"), SelfRatingEvaluator)
        judge = make_evaluator("openai:org/judge:8b", "http://localhost:8000/v1")
        assert isinstance(judge, OpenAIEvaluator)
        assert "org/judge:8b" in judge.name
        assert "localhost:8000" in judge.name


class TestCommands:
    def test_help_lists_all_commands_and_those_of_other_packages(self):
        output = sda("--help").output
        for command in ("generate", "compare", "presets", "demo"):
            assert command in output

    def test_presets_are_listed_with_their_instructions(self):
        told = " ".join(sda("presets").stdout.split())  # whatever the width of the terminal
        for name, alignment in PRESETS.items():
            assert name in told
            assert alignment.instruction in told
        assert json.loads(sda("presets", "--json").stdout).keys() == PRESETS.keys()

    def test_a_command_that_cannot_be_loaded_is_left_out(self, monkeypatch, caplog):
        broken = EntryPoint("broken", "no_such_package:command", COMMAND_GROUP)
        monkeypatch.setattr("sda_engine.cli.app.entry_points", lambda group: [broken])
        assert sda("presets").exit_code == 0
        assert "sda broken" in caplog.text

    def test_any_error_of_a_commands_own_session_is_told(self, monkeypatch):
        def run(**_):
            raise SDAError("no extra")

        monkeypatch.setattr("sda_engine.cli.presets.run", run)
        assert_refused(sda("presets"), "no extra")


class TestProcess:
    """What only a process of its own can show."""

    def test_help_imports_nothing_heavy(self):
        heavy = {"torch", "transformers", "pydantic", "langchain_core", "llama_index.core", "sentence_transformers"}
        program = (
            "import json, sys\n"
            "from typer.testing import CliRunner\n"
            "from sda_engine.cli import make_app\n"
            "assert CliRunner().invoke(make_app(), ['--help']).exit_code == 0\n"
            "json.dump(list(sys.modules), sys.stdout)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
        assert not heavy & set(json.loads(done.stdout))

    def test_a_reader_that_left_causes_no_traceback(self):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as closed:
            done = subprocess.run(
                [sys.executable, "-c", "from sda_engine.cli import main; main()", "presets"],
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                timeout=300,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr == ""


def _short():
    return Sampling(max_new_tokens=8, seed=1)
