"""Tiny random models whose layers carry states from token to token, one for each way in which they do."""

from tests.sda_engine.decoding.architectures import tiny

_MIX = ["linear_attention", "full_attention"] * 2
_DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
SETTINGS = {
    "qwen3_5_text": {"layer_types": _MIX, **_DELTA},  # gated delta rule
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},  # convolutions alone
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},  # both in every layer
    "granitemoehybrid": {"layer_types": _MIX, "position_embedding_type": "rope", **_MAMBA},  # Mamba 2, experts
}


def recurrent_model(model_type="qwen3_5_text", vocab_size=320, **settings):
    """A model of a type, with the vocabulary of the tiny tokenizer."""
    return tiny(
        model_type, **{**SETTINGS[model_type], "vocab_size": vocab_size, "max_position_embeddings": 512, **settings}
    )
