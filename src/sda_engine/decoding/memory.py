"""How much of the machine the keys and values may take, in tokens."""

import psutil
import torch
from transformers import PreTrainedModel

_SHARE = 0.5  # of the free memory; the rest is for activations, logits and everybody else


def default_cache_tokens(model: PreTrainedModel) -> int:
    """Tokens whose keys and values fit in half of the memory that is free now, where the model is."""
    device = model.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return max(1, int(_SHARE * free) // bytes_per_token(model))


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that the keys and values of one token take in all layers of a model."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
