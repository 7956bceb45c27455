"""How large tiny models are: one value for each name that configs of transformers have for a size.

Windows, chunks and the number of keys that an indexer picks are longer than the nine tokens of the engine's self-test
and shorter than the prompts of the census, as those of real models are longer than any short check and shorter than a
document: a rule that shows past its threshold alone shows here, too.
"""

from collections.abc import Mapping
from types import MappingProxyType

LAYERS = 4
THRESHOLD = 16  # tokens
POSITIONS = 512
VOCABULARY = 320  # of sda_engine.testing.tiny_tokenizer
END_ID = 2  # of its <|im_end|>

_HIDDEN, _INNER, _EXPERT, _HEADS, _HEAD = 64, 96, 32, 4, 16


def _each(names: str, value: object) -> dict[str, object]:
    return dict.fromkeys(names.split(), value)


SHAPE: Mapping[str, object] = MappingProxyType(
    _each("vocab_size vocab_size_per_layer_input", VOCABULARY)
    | _each(
        "hidden_size d_model n_embd dim emb_dim embedding_dim embedding_size embed_dim encoder_hidden_size", _HIDDEN
    )
    | _each("out_hidden_size word_embed_proj_dim", _HIDDEN)
    | _each("intermediate_size ffn_dim n_inner dff dim_ff decoder_ffn_dim encoder_ffn_dim d_ff d_inner", _INNER)
    | _each("ffn_hidden_size feed_forward_size intermediate_size_mlp dense_intermediate_size", _INNER)
    | _each("moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size", _EXPERT)
    | _each("expert_ffn_hidden_size shared_intermediate_size shared_experts_intermediate_size", _EXPERT)
    | _each("moe_hidden_size share_expert_dim projection_dim", _EXPERT)
    | _each("num_hidden_layers n_layer n_layers num_layers decoder_layers layers num_blocks num_decoder_layers", LAYERS)
    | _each("encoder_layers num_encoder_layers depth", 2)
    # Attention: two queries share a key, but where the type's default says that none do (see configs.py)
    | _each("num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads", _HEADS)
    | _each("attention_heads num_encoder_attention_heads num_decoder_attention_heads", _HEADS)
    | _each("num_key_value_heads kv_n_heads num_kv_heads", _HEADS // 2)
    | _each("attention_head_size head_dim attention_head_dim dim_head d_head d_kv kv_channels", _HEAD)
    | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
    # Thresholds. With few heads an indexer of random weights finds many keys equally good
    | _each("sliding_window sliding_window_size attention_window_size local_attention attention_chunk_size", THRESHOLD)
    | {"index_topk": 24, "index_n_heads": 16, "index_head_dim": 16}
    | _each("max_position_embeddings n_positions max_seq_len n_ctx max_sequence_length model_max_length", POSITIONS)
    # Experts: one choice of two among four in every layer but the first
    | _each("num_local_experts num_experts n_routed_experts moe_num_experts", 4)
    | _each("num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts", 2)
    | _each("n_group topk_group num_expert_group n_shared_experts num_shared_experts moe_num_shared_experts", 1)
    | {"first_k_dense_replace": 1}
    # Recurrent layers: states of several chunks
    | _each("state_size mamba_d_state ssm_state_size mamba_n_heads mamba_num_heads mamba_dt_rank time_step_rank", 8)
    | {"mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_head": 16, "mamba_head_dim": 16}
    | _each("mamba_chunk_size chunk_size", THRESHOLD)
    | _each("linear_key_head_dim linear_value_head_dim linear_head_dim", _HEAD)
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_num_heads": 4}
    # Tokens: those of the tokenizer, and of pictures and sounds some that no text has
    | {"pad_token_id": END_ID, "bos_token_id": 1, "eos_token_id": END_ID, "decoder_start_token_id": 1}
    | _each("image_token_id image_token_index", 250)
    | _each("video_token_id video_token_index", 251)
    | _each("audio_token_id audio_token_index", 252)
    | {"vision_start_token_id": 253, "vision_end_token_id": 254}
    | {"image_size": 28, "patch_size": 14, "spatial_merge_size": 2, "hidden_size_per_layer_input": 8}
    # A random model that reads and writes by the same embeddings mostly repeats its last token
    | {"tie_word_embeddings": False}
    | {"is_decoder": True, "use_cache": True, "initializer_range": 0.02}
)
