"""GGUF files of any architecture that transformers reads become models that say the same as what they were made of."""

import json

import gguf
import numpy as np
import pytest
import torch
import transformers as hf

from sda_engine.errors import ModelLoadError
from sda_engine.models import gguf_conversion
from sda_engine.models.loading import ModelSettings, load_model
from sda_engine.testing import tiny_tokenizer
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


def write_gguf(file, architecture, model):
    """What llama.cpp's converter writes: the same numbers under other names, some of them in another order."""
    config, tokenizer = model.config, tiny_tokenizer()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0 if architecture != "gemma3" else 1_000_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    write_tokenizer(writer, tokenizer)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target, as_written(architecture, name, values, config).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_written(architecture, name, values, config):
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):  # pairs of a rotation, neighbours
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return values.view(heads, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)
    return values + 1.0 if architecture == "gemma3" and "norm" in name else values


def write_tokenizer(writer, tokenizer):
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_ids)
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for _, number in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in pieces["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


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
