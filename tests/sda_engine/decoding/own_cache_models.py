"""Tiny random models of types whose rows cannot share one flat pass; thresholds lie within the prompts of the tests."""

import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.sda_engine.decoding.architectures import random_model

_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_EXPERTS = {"num_local_experts": 4, "n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {"state_size": 8, "conv_kernel": 4, "expand": 2}
_TYPES = {
    "bloom": {},
    "deepseek_v4": {
        "num_hidden_layers": 3,
        "head_dim": 16,
        "q_lora_rank": 16,
        "moe_intermediate_size": 32,
        "sliding_window": 16,
    }
    | {"index_head_dim": 16, "index_n_heads": 16, "index_topk": 24, "num_key_value_heads": 1, "n_shared_experts": 1}
    | {"o_lora_rank": 16, "o_groups": 2, "qk_rope_head_dim": 8},
    "diffllama": {"num_key_value_heads": 2},
    "falcon": {},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_key_value_heads": 2, "mamba_d_state": 8}
    | {"mamba_dt_rank": 8, "use_mamba_kernels": False},
    "mamba": {**_MAMBA, "time_step_rank": 8},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
        "head_dim": 16,
    }
    | {"index_block_size": 4, "index_topk_blocks": 4, "index_n_heads": 2, "index_head_dim": 16, "rotary_dim": 8}
    | {"num_key_value_heads": 2, "moe_intermediate_size": 32, "dense_intermediate_size": 48}
    | {"shared_intermediate_size": 32},
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "adapter_rank": 4,
        "num_key_value_heads": 4,
    }
    | {"attention_head_dim": 16, "attention_hidden_size": 64, "mamba_d_state": 8, "n_mamba_heads": 4}
    | {"mamba_ngroups": 1, "chunk_size": 16, "use_mem_rope": True},
}


def own_cache_model(model_type, **settings):
    """A model of a type, that the engine's second runner is to run."""
    known = AutoConfig.for_model(model_type)
    names = {*known.to_dict(), *known.attribute_map}
    shape = {name: value for name, value in {**_SHAPE, **_EXPERTS}.items() if name in names}
    config = AutoConfig.for_model(model_type, **{**shape, **_TYPES[model_type], **settings})
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return random_model(getattr(transformers, class_name), config)
