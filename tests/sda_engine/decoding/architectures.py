"""Tiny random models of many architectures, and what transformers itself makes of the tokens of one row."""

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sda_engine.decoding.blocks import join_pieces
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment

WINDOW = 8
LAYERS = 4
_SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}


MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "head_dim": 8,
}
SHARED = {**WINDOWED, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128}
GEMMA_3N = {
    **SHARED,
    "intermediate_size": [64] * LAYERS,
    "activation_sparsity_pattern": [0.95, 0.0] * 2,
    "laurel_rank": 8,
}
LLAMA_4 = {
    "intermediate_size_mlp": 64,
    "layer_types": ["chunked_attention", "full_attention"] * (LAYERS // 2),
    "no_rope_layers": [1, 0] * (LAYERS // 2),
    "attention_chunk_size": WINDOW,
    "attn_scale": 1.0,
    "floor_scale": 4,
}


def indexed(most):
    """Settings of a model that attends to all tokens before as long as there are at most so many."""
    return {**MLA, "index_topk": most, "index_n_heads": 16, "index_head_dim": 16}


def text_settings(**more):
    """Settings of a tiny decoder, for the text_config of a model that also sees or hears."""
    return {**_SHAPE, **more}


def tiny(model_type, **settings):
    """A random model of a type of transformers; settings that the type does not know are left out."""
    known = AutoConfig.for_model(model_type)
    names = {*known.to_dict(), *known.attribute_map}
    shape = {name: value for name, value in {**_SHAPE, **_EXPERTS}.items() if name in names}
    config = AutoConfig.for_model(model_type, **{**shape, **settings})
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return random_model(getattr(transformers, names[0] if isinstance(names, tuple) else names), config)


def random_model(model_class, config) -> PreTrainedModel:
    """A model with weights large enough that attention and every position make a difference."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        model = model_class(config)
        for name, weights in model.named_parameters():
            if weights.ndim == 2:
                scale = 0.5 if "embed" in name else 1.6 / weights.shape[1] ** 0.5
                weights.copy_(torch.randn(weights.shape) * scale)
            elif weights.ndim == 1:
                weights.add_(torch.randn(weights.shape) * 0.2)
    model.train(False)
    return model


def chameleon():
    """It gives the lowest of all numbers to the logits of its images' tokens."""
    images = {"vq_config": {"base_channels": 32, "resolution": 16, "embed_dim": 8, "num_embeddings": 4}}
    names = {"<image>": 5, "IMGIMGA": 6, "IMGIMGB": 7}
    config = transformers.ChameleonConfig(**text_settings(), **images, vocabulary_map=names)
    return random_model(transformers.ChameleonForConditionalGeneration, config)


def rows_of(lengths):
    """Token ids of rows of these lengths."""
    return [[3 + (7 * row + 11 * place + place * place) % 97 for place in range(n)] for row, n in enumerate(lengths)]


@torch.inference_mode()
def logits_of(model, token_ids):
    """(tokens, vocab): transformers' own forward pass of one row alone."""
    return model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].float()


@torch.inference_mode()
def logits_together(model, rows, sizes, tail=8):
    """Per row (tokens, vocab): all rows in the same passes of a ModelRunner, in pieces of the sizes in turn.

    With tails so short, each row comes to stand in several blocks.
    """
    runner = ModelRunner(model)
    memory = RowMemory(tail=tail)
    opened = [Row(memory) for _ in rows]
    logits = [[] for _ in rows]
    for turn in range(max(map(len, rows))):
        segments, places = [], []
        for place, (row, token_ids) in enumerate(zip(opened, rows, strict=True)):
            piece = token_ids[row.length : row.length + sizes[(turn + place) % len(sizes)]]
            if piece:
                segments.append(Segment(row, piece, keep=len(piece)))
                places.append(place)
        if segments:
            for place, piece in zip(places, runner.forward(segments), strict=True):
                logits[place].append(piece.float())
    return [torch.cat(pieces) for pieces in logits]


def states_of(row):
    """Per layer (keys, values) of all tokens of a row, both (heads, tokens, size)."""
    return join_pieces(row.cut(0, row.length), row.memory.ledger).block.layers


def largest_error(model, lengths=(5, 21, 33, 13), sizes=(3, 1, 4, 7, 2)):
    """How far the rows are from what each is alone, as a fraction of the largest logit."""
    rows = rows_of(lengths)
    alone = [logits_of(model, row) for row in rows]
    together = logits_together(model, rows, sizes)
    error = max((left - right).abs().max() for left, right in zip(together, alone, strict=True))
    return float(error / max(logits[logits.abs() < 1e30].abs().max() for logits in alone))  # larger ones are masks
