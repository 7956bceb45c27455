"""What single types need beside the common sizes: data, with reasons.

A name may be a variant, "type: what it shows": the type with settings that some of its checkpoints have and its default
config has not. Settings that are dicts of a part ("text_config") are laid over those of that part.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .shape import LAYERS, POSITIONS, THRESHOLD, VOCABULARY

Settings = Mapping[str, object]
VARIANT = ": "

SLIDING_AND_FULL = ["sliding_attention", "full_attention"] * (LAYERS // 2)
FULL = ["full_attention"] * LAYERS
_LINEAR_AND_FULL = ["linear_attention", "full_attention"] * (LAYERS // 2)
_CONVOLUTION_AND_FULL = ["conv", "full_attention"] * (LAYERS // 2)
_CHUNKED_AND_FULL = ["chunked_attention", "full_attention"] * (LAYERS // 2)

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
ROPE_BY_LAYER = {"full_attention": PLAIN_ROPE, "sliding_attention": PLAIN_ROPE}
# Queries are scaled by their position from the 32nd token on
ROPE_WITH_TEMPERATURE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_GROWING_ROPE = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 256,
}
_GEMMA4 = {"layer_types": SLIDING_AND_FULL, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}

# Layers of each kind, where a config of four layers would not have them by itself
_MIXED_LAYERS: dict[str, Settings] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": _LINEAR_AND_FULL, "position_embedding_type": "rope"},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _LINEAR_AND_FULL},
    "laguna": {"layer_types": SLIDING_AND_FULL, "num_attention_heads_per_layer": [4, 6, 4, 6]},
    "lfm2": {"layer_types": _CONVOLUTION_AND_FULL},
    "lfm2_moe": {"layer_types": _CONVOLUTION_AND_FULL, "num_dense_layers": 1},
    "mellum": {"layer_types": SLIDING_AND_FULL},
    "ministral": {"layer_types": SLIDING_AND_FULL, "head_dim": 16},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * (LAYERS // 2),
        "num_hidden_layers": LAYERS,
        "adapter_rank": 4,
        "num_key_value_heads": 4,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,  # its attention reads the hidden states and the embeddings side by side
        "use_mem_rope": True,
        "use_shared_attention_adapter": True,
    },
    "zaya": {
        "layer_types": ["hybrid_sliding", "hybrid"] * (LAYERS // 2),
        "num_experts_per_tok": 1,
        "router_hidden_size": 16,
        "sliding_window": THRESHOLD,
    },
}

# Thresholds that have a name of their own, and what the type's checkpoints have but its default config has not
_THRESHOLDS: dict[str, Settings] = {
    "gemma3n_text": {
        "layer_types": SLIDING_AND_FULL,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
        "laurel_rank": 8,
        "intermediate_size": [96] * LAYERS,
    },
    "inkling2_text": {"log_scaling_n_floor": THRESHOLD, "rel_extent": THRESHOLD},
    "inkling_text": {"log_scaling_n_floor": THRESHOLD, "rel_extent": THRESHOLD},
    "llama4_text": {"floor_scale": THRESHOLD},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * (LAYERS // 2),
        "mlp_layer_types": ["dense", "sparse"] * (LAYERS // 2),
        "index_block_size": 4,
        "index_topk_blocks": 4,
        "index_n_heads": 2,
        "rotary_dim": 8,
    },
    "ministral3": {"rope_parameters": ROPE_WITH_TEMPERATURE},
    "qwen4_exp_text": {
        "indexer_budget": THRESHOLD,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ngram_vocab_size_base": 97,
        "split_ngram_parts": 1,
        "heads_per_ngram": 2,
        "ple_layer_ids": [1],
        "ple_embed_dim": 64,
        "rope_parameters": {**PLAIN_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
    },
}

# Sizes that have to fit others
_SIZES: dict[str, Settings] = {
    "blt": {
        "vocab_size": VOCABULARY,
        "patch_size": 4,
        "local_attention_window_len": THRESHOLD,
        "encoder_hash_byte_group_vocab": 50,
        "encoder_cross_output_size": None,
        "patcher_config": {"vocab_size": VOCABULARY},
        "encoder_config": {"vocab_size": VOCABULARY, "hidden_size_global": 128, "num_hidden_layers": 1},
        "decoder_config": {"vocab_size": VOCABULARY, "hidden_size_global": 128},
        "global_config": {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32},
    },
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"layer_types": SLIDING_AND_FULL, "rope_parameters": ROPE_BY_LAYER},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gptj": {"rotary_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": [2] * LAYERS, "moe_intermediate_size": None},
    "longcat_flash": {"num_layers": 2, "num_hidden_layers": LAYERS, "zero_expert_num": 2},  # two attentions a layer
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "olmo_hybrid": {"linear_num_key_heads": 4},
    "reformer": {
        "axial_pos_shape": [16, POSITIONS // 16],
        "axial_pos_embds_dim": [16, 48],
        "attn_layers": ["local", "lsh"] * (LAYERS // 2),
        "local_attn_chunk_length": THRESHOLD,
        "lsh_attn_chunk_length": THRESHOLD,
        "num_buckets": 4,
    },
    "xmod": {"default_language": "en_XX"},
}

# What checkpoints of a type have and its default config has not
VARIANTS: Mapping[str, Settings] = MappingProxyType(
    {
        "deepseek_v32: short of top-k": {"index_topk": 400},
        "falcon: alibi": {"alibi": True},
        "falcon: grouped queries": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
        "gemma4_text: E2B, shared layers": {"layer_types": SLIDING_AND_FULL, "num_kv_shared_layers": 2},
        "gemma4_text: 26B-A4B, experts": {
            **_GEMMA4,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
        "gemma4_text: 31B, keys are values": {
            **_GEMMA4,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "global_head_dim": 32,
        },
        "glm_moe_dsa: short of top-k": {"index_topk": 400},
        "granitemoehybrid: dense": {
            "layer_types": FULL,
            "position_embedding_type": "rope",
            "num_local_experts": 0,
        },
        "llama: dynamic NTK": {"rope_parameters": _GROWING_ROPE},
        "llama: dynamic NTK past its length": {
            "rope_parameters": {**_GROWING_ROPE, "original_max_position_embeddings": 64}
        },
        "llama4_text: chunks alone": {"layer_types": _CHUNKED_AND_FULL, "attn_temperature_tuning": False},
        "llama4_text: neither chunks nor temperature": {"layer_types": FULL, "attn_temperature_tuning": False},
        "llama4_text: temperature alone": {
            "layer_types": FULL,
            "attn_temperature_tuning": True,
            "floor_scale": THRESHOLD,
        },
        "minimax_m3_vl_text: full attention": {"layer_types": FULL},
        "opt: 350m": {"word_embed_proj_dim": 32, "do_layer_norm_before": False},
        "phi3: longrope": {"original_max_position_embeddings": 256, "rope_parameters": _LONG_ROPE},
        "qwen2: window": {"use_sliding_window": True, "max_window_layers": 2},
        "qwen3: window": {"use_sliding_window": True, "max_window_layers": 2},
        "zaya: no window": {
            "layer_types": ["hybrid"] * LAYERS,
            "num_experts_per_tok": 1,
            "router_hidden_size": 16,
            "sliding_window": None,
        },
    }
)

TEXT_SETTINGS: Mapping[str, Settings] = MappingProxyType({**_MIXED_LAYERS, **_THRESHOLDS, **_SIZES})
