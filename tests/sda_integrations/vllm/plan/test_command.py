"""`sda vllm --plan` as it is called."""

import json
import subprocess
import sys

import pytest
import typer

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.command import show_plan

HEAVY = ("torch", "transformers", "vllm", "numpy")


@pytest.fixture(autouse=True)
def a_terminal_of_its_own_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def test_a_plan_is_three_tables(capsys):
    show_plan("llama-3.1-8b", ["--gpu", "h100"])
    shown = capsys.readouterr().out
    assert "llama-3.1-8b on 1 x h100: each GPU" in shown
    assert "keys and values                            53.91" in shown
    assert "steered, 2 rows" in shown
    assert "62              20 + 22" in shown
    assert "With as many requests as fit at once" in shown


def test_the_same_as_json(capsys):
    show_plan("llama-3.3-70b", ["--gpu", "h100", "-tp", "4", "-dp", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["tensor_parallel_size"], told["data_parallel_size"]) == ("llama-3.3-70b", 4, 2)
    assert told["steered"]["row_tokens"] == [1300, 1340]
    assert sum(told["steered"]["row_blocks"]) + told["steered"]["shared_blocks"] == told["steered"]["blocks"] == 104
    assert told["bounds"][-1]["steered"] is None, "more plain requests fit than steered ones"


def test_where_rows_are_limited_the_table_says_by_what(capsys):
    show_plan("qwen2.5-0.5b", ["--gpu", "l4", "--max-num-seqs=16"])
    assert "8 (--max-num-seqs)" in capsys.readouterr().out


def test_an_unknown_option_ends_as_in_any_other_command(capsys):
    with pytest.raises(typer.Exit) as end:
        show_plan("llama-3.1-8b", ["--enable-lora"])
    assert end.value.exit_code == 2
    assert "No such option: --enable-lora" in capsys.readouterr().err


def test_help_lists_the_options_of_a_plan(capsys):
    show_plan("llama-3.1-8b", ["--help"])
    assert "--gpu-memory-utilization" in capsys.readouterr().out


def test_errors_are_left_to_the_caller():
    with pytest.raises(ConfigError, match="A plan needs a GPU"):
        show_plan("llama-3.1-8b", [])


def test_a_plan_for_a_preset_imports_nothing_heavy():
    code = (
        "import sys; from sda_integrations.vllm.plan.command import show_plan; "
        f"show_plan('llama-3.1-8b', ['--gpu', 'h100']); print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
