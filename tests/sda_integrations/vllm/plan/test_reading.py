"""Sizes read from configurations: of folders, and of models that store something else than a key and a value a head."""

import pytest
from transformers import (
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3NextConfig,
)

from sda_engine.errors import ConfigError, ModelLoadError
from sda_integrations.vllm.plan.command import find_sizes
from sda_integrations.vllm.plan.reading import sizes_of

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_a_folder_with_a_configuration_alone_is_enough(tmp_path):
    LlamaConfig(vocab_size=100, num_key_value_heads=2, **TINY, architectures=["LlamaForCausalLM"]).save_pretrained(
        tmp_path
    )
    sizes = find_sizes(str(tmp_path))
    assert (sizes.query_heads, sizes.kv_heads, sizes.head_dim, sizes.windows) == (4, 2, 16, ((None, 2),))
    attention, feed_forward, norms = 64 * 64 * 2 + 64 * 32 * 2, 3 * 64 * 128, 2 * 64
    assert sizes.parameters == 2 * 100 * 64 + 2 * (attention + feed_forward + norms) + 64
    assert sizes.embeddings == 2 * 100 * 64


def test_a_sliding_window_without_kinds_of_layers_is_every_layers():
    config = MistralConfig(sliding_window=4096, num_hidden_layers=3)
    assert sizes_of("m", config, {"a": 1}).windows == ((4096, 3),)


def test_kinds_of_layers_are_counted():
    config = Gemma3TextConfig(num_hidden_layers=12, sliding_window=512)
    assert sizes_of("g", config, {"a": 1}).windows == ((512, 10), (None, 2))


def test_latent_attention_stores_one_vector():
    sizes = sizes_of("d", DeepseekV3Config(), {"model.layers.3.mlp.experts.up": 100, "model.norm": 5})
    assert (sizes.latent, sizes.kv_heads, sizes.head_dim) == (True, 1, 512 + 64)
    assert sizes.experts is not None
    assert (sizes.experts.parameters, sizes.experts.count, sizes.experts.per_token) == (100, 256, 8)


def test_how_the_files_are_quantized_is_read():
    config = LlamaConfig(quantization_config={"quant_method": "awq", "bits": 4})
    assert sizes_of("a", config, {"a": 1}).quantization == "awq"


def test_layers_with_a_state_are_refused():
    with pytest.raises(ConfigError, match=r"layers of type linear_attention\. Start it on the GPU"):
        sizes_of("n", Qwen3NextConfig(), {"a": 1})


def test_layers_that_choose_what_they_read_are_refused():
    config = DeepseekV3Config(index_topk=2048)
    with pytest.raises(ConfigError, match="depends on index_topk"):
        sizes_of("d", config, {"a": 1})


def test_experts_that_nobody_counts_are_refused():
    with pytest.raises(ConfigError, match="how many experts read a token"):
        sizes_of("e", LlamaConfig(), {"model.layers.0.mlp.experts.0.up": 10})


def test_every_head_stores_where_the_configuration_names_no_others():
    sizes = sizes_of("gpt2", GPT2Config(), {"a": 1})
    assert (sizes.kv_heads, sizes.head_dim, sizes.context) == (12, 64, 1024)


def test_a_gguf_file_is_refused_with_the_remedy(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="Name the folder or the Hub id it is from"):
        find_sizes(str(file))


def test_an_unknown_model_is_refused_with_the_presets(tmp_path):
    with pytest.raises(ModelLoadError, match=r"could not be read: .*or one of smollm2-135m, .*llama-3\.1-8b"):
        find_sizes(str(tmp_path))
