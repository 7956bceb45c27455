"""Quantized models: an engine says what the same quantized model says by itself, or names what is missing."""

import importlib.util

import pytest
import torch
import transformers as hf

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ModelLoadError
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.prompts import BASE, INSTRUCTED, make_contexts
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.sda_engine.decoding.architectures import random_model

CHAT = user("the quick brown fox jumps over the lazy dog and the answer is in the library")
PAPER = Steering(policy="paper", gain=2.0, amplification=0.5)
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def folder(tmp_path):
    config = hf.LlamaConfig(vocab_size=320, num_key_value_heads=2, eos_token_id=None, pad_token_id=0, **SHAPE)
    random_model(hf.LlamaForCausalLM, config).save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.inference_mode()
def loop(model):
    contexts = make_contexts(CHAT, resolve_alignment("be polite"), SafeTokenizer(tiny_tokenizer()))
    tokens = []
    for _ in range(8):
        base, instructed = (
            model(input_ids=torch.tensor([[*contexts.shared, *contexts.tails[name], *tokens]]), use_cache=False)
            .logits[0, -1]
            .float()
            .log_softmax(-1)
            for name in (BASE, INSTRUCTED)
        )
        tokens.append(int((instructed + instructed - base).argmax()))
    return tuple(tokens)


def four_bits():
    return hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def eight_bits(threshold=0.0):
    return hf.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)


def torchao(name):
    import torchao.quantization

    return hf.TorchAoConfig(getattr(torchao.quantization, name)())


CONFIGS = {
    "bitsandbytes, 4 bits": ("bitsandbytes", four_bits),
    "bitsandbytes, 8 bits": ("bitsandbytes", eight_bits),
    "torchao, 8 bits": ("torchao", lambda: torchao("Int8WeightOnlyConfig")),
    "torchao, 8 bits, activations too": ("torchao", lambda: torchao("Int8DynamicActivationInt8WeightConfig")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quantized_model_answers_as_it_does_by_itself_and_so_does_its_checkpoint(name, folder, tmp_path):
    package, config = CONFIGS[name]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    with SteeringEngine.load(str(folder), dtype="float32", device="cpu", quantization_config=config()) as engine:
        wanted = loop(engine.model)
        assert answer(engine) == wanted
        engine.model.save_pretrained(tmp_path / "quantized")
        engine.tokenizer.save_pretrained(tmp_path / "quantized")
    with SteeringEngine.load(str(tmp_path / "quantized"), dtype="float32", device="cpu") as engine:
        assert engine.model.is_quantized
        assert answer(engine) == wanted


def answer(engine):
    sampling = Sampling(temperature=0, max_new_tokens=8)
    return engine.generate(CHAT, "be polite", steering=PAPER, sampling=sampling).token_ids


def test_eight_bits_that_look_at_the_whole_pass_are_told_of(folder, caplog):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    load_model(ModelSettings(model=str(folder), device="cpu", quantization_config=eight_bits(6.0)))
    assert "llm_int8_threshold=0.0) keeps rows apart" in caplog.text


PACKAGES = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {}}},
    "optimum": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "gptqmodel": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
    "compressed_tensors": {"quant_method": "compressed-tensors", "config_groups": {}},
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_checkpoint_that_needs_a_missing_package_is_refused_with_its_name(package, folder):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    change_config(folder, quantization_config=PACKAGES[package])
    with pytest.raises(ModelLoadError, match=rf"{package.replace('_', '.')}.*Install it, and load"):
        load_model(ModelSettings(model=str(folder), device="cpu"))


def change_config(folder, **values):
    config = hf.AutoConfig.from_pretrained(folder).to_dict() | values
    (folder / "config.json").write_text(hf.LlamaConfig(**config).to_json_string())
