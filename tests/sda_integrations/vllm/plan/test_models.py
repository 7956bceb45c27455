"""The sizes that are typed in, against transformers' own models of the same public configuration."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sda_integrations.vllm.plan.models import PRESETS
from sda_integrations.vllm.plan.reading import sizes_of

# Of each model: class, words, width, hidden width, layers, heads of queries and of keys, context window
SHAPES = {
    "smollm2-135m": (LlamaConfig, 49_152, 576, 1536, 30, 9, 3, 8192),
    "llama-3.2-1b": (LlamaConfig, 128_256, 2048, 8192, 16, 32, 8, 131_072),
    "llama-3.2-3b": (LlamaConfig, 128_256, 3072, 8192, 28, 24, 8, 131_072),
    "llama-3.1-8b": (LlamaConfig, 128_256, 4096, 14_336, 32, 32, 8, 131_072),
    "llama-3.3-70b": (LlamaConfig, 128_256, 8192, 28_672, 80, 64, 8, 131_072),
    "mistral-7b": (MistralConfig, 32_768, 4096, 14_336, 32, 32, 8, 32_768),
    "qwen2.5-0.5b": (Qwen2Config, 151_936, 896, 4864, 24, 14, 2, 32_768),
    "qwen2.5-7b": (Qwen2Config, 152_064, 3584, 18_944, 28, 28, 4, 32_768),
    "qwen2.5-72b": (Qwen2Config, 152_064, 8192, 29_568, 80, 64, 8, 32_768),
    "qwen3-8b": (Qwen3Config, 151_936, 4096, 12_288, 36, 32, 8, 40_960),
    "gemma-2-9b": (Gemma2Config, 256_000, 3584, 14_336, 42, 16, 8, 8192),
    "mixtral-8x7b": (MixtralConfig, 32_000, 4096, 14_336, 32, 32, 8, 32_768),
    "qwen3-30b-a3b": (Qwen3MoeConfig, 151_936, 2048, 6144, 48, 32, 4, 40_960),
}
TIED = {"smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-0.5b", "gemma-2-9b"}
MORE = {
    "mistral-7b": {"sliding_window": None},
    "qwen3-8b": {"head_dim": 128},
    "gemma-2-9b": {"head_dim": 256, "sliding_window": 4096},
    "qwen3-30b-a3b": {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_sizes_of_its_public_configuration(name):
    kind, words, width, hidden, layers, heads, kv_heads, context = SHAPES[name]
    config = kind(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=name in TIED,
        **MORE.get(name, {}),
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    read = sizes_of(name, config, {key: weight.numel() for key, weight in network.named_parameters()})
    assert read == PRESETS[name]
