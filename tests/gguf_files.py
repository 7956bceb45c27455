"""GGUF files of tiny models, as llama.cpp's converter writes them."""

import json

import gguf
import numpy as np

from sda_engine.testing import tiny_tokenizer


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
