"""GGUF files of any architecture that transformers reads become models that say the same as what they were made of."""

import gguf
import pytest
import torch
import transformers as hf

from sda_engine.errors import ModelLoadError
from sda_engine.models import gguf_conversion
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.testing import tiny_tokenizer
from tests.gguf_files import write_gguf, write_tokenizer
from tests.sda_engine.decoding.architectures import random_model

_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
IDS = torch.tensor([[5, 9, 2, 77, 31, 200, 8]])
MODELS = {
    "llama": lambda: random_model(hf.LlamaForCausalLM, hf.LlamaConfig(**_SHAPE)),
    "qwen2": lambda: random_model(hf.Qwen2ForCausalLM, hf.Qwen2Config(**_SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: random_model(hf.Qwen3ForCausalLM, hf.Qwen3Config(**{**_SHAPE, "head_dim": 128})),
    "gemma3": lambda: random_model(
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(
            **_SHAPE, sliding_window=4, layer_types=["sliding_attention"] * 2, tie_word_embeddings=True
        ),
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("architecture", MODELS)
def test_a_gguf_file_becomes_a_model_that_says_the_same(architecture, tmp_path):
    model = MODELS[architecture]()
    file = tmp_path / "tiny.gguf"
    write_gguf(file, architecture, model)
    loaded = load_model(ModelSettings(model=str(file), dtype="float32", device="cpu"))
    assert loaded.model.config.tie_word_embeddings == model.config.tie_word_embeddings
    if architecture != "gemma3":  # whose files have a tokenizer of another kind
        assert loaded.facts.tokenizer.encode("the fox") == tiny_tokenizer().encode("the fox")
    with torch.inference_mode():
        ours, wanted = (one(input_ids=IDS, use_cache=False).logits for one in (loaded.model, in_bfloat16(model)))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def in_bfloat16(model):
    """The model with weights as they are kept after a conversion."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).to(torch.float32)
    return model


def test_an_architecture_that_is_not_read_is_refused_with_those_that_are(tmp_path):
    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "wavtokenizer-dec")
    writer.add_name("tiny")
    write_tokenizer(writer, tiny_tokenizer())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"wavtokenizer-dec.* reads the architectures .*gemma3, .*llama, .*qwen3,"):
        load_model(ModelSettings(model=str(file)))


def test_the_weights_are_in_memory_once_while_a_file_is_converted(tmp_path, monkeypatch):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, "qwen2", MODELS["qwen2"]())
    made = []
    save = hf.PreTrainedModel.save_pretrained
    monkeypatch.setattr(
        hf.PreTrainedModel, "save_pretrained", lambda model, folder: made.append(model) or save(model, folder)
    )
    loads = gguf_conversion.AutoModelForCausalLM.from_pretrained
    kept = []
    monkeypatch.setattr(
        gguf_conversion.AutoModelForCausalLM,
        "from_pretrained",
        lambda *given, **settings: kept.append(loads(*given, **settings)) or kept[-1],
    )
    gguf_conversion.converted_folder(file)
    shared = [weight.data_ptr() for weight in kept[0].parameters()]
    assert [weight.data_ptr() for weight in made[0].parameters()] == shared
