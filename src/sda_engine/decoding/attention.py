"""Attention over rows of any lengths in one forward pass, as an attention implementation of transformers.

The tokens of all rows stand behind one another in one sequence, so that every linear layer sees them as one matrix and
nothing is padded. Only attention tells the rows apart: each row's queries meet that row's own keys and values. That a
model's layers can be given another attention function, and keyword arguments for it, is the interface on which
transformers' own continuous batching stands.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.kernels import Kernel
from sda_engine.errors import ModelLoadError
from sda_engine.forks import make_lock

ROWS_INSTEAD_OF_SDPA, ROWS_INSTEAD_OF_EAGER = "sda_rows_sdpa", "sda_rows_eager"
_SDPA: Callable[..., object] = sdpa_attention_forward
_locks: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()
_LAYER_TYPES = {"full_attention", "sliding_attention", "linear_attention", "conv", "hybrid", "moe", "mlp"}


def check_attention(model: PreTrainedModel) -> None:
    """Refuse a model of which it is known beforehand that its attention cannot be told apart by rows.

    Raises:
        ModelLoadError: its attention function cannot be replaced, or it keeps other states than keys and values.
    """
    config = model.config.get_text_config(decoder=True)
    reasons = {
        "layers other than full and sliding-window attention": set(getattr(config, "layer_types", None) or ())
        - _LAYER_TYPES,
        "layers that share keys and values": getattr(config, "num_kv_shared_layers", 0),
        "attention that depends on how long the text is": getattr(config, "attn_temperature_tuning", False),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise unsupported_model(model, found[0])


def unsupported_model(model: PreTrainedModel, reason: str) -> ModelLoadError:
    """The error for a model that the engine would run wrongly."""
    return ModelLoadError(
        f"Models of type {model.config.model_type!r} have {reason}, and the engine cannot decode several rows of them "
        f"in one pass. Load a model of another type, such as Llama, Qwen, Mistral, Phi or Gemma 3.",
        reason=reason,
    )


@contextmanager
def row_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends by rows in passes of ours; those of somebody else go on as they always do.

    One block at a time per model: what waits is a pass of another engine that runs the same one.
    """
    config = model.config.get_text_config(decoder=True)
    lock = _locks.get(model) or _locks.setdefault(model, make_lock())
    with lock:
        usual = config._attn_implementation
        config._attn_implementation = ROWS_INSTEAD_OF_EAGER if usual == "eager" else ROWS_INSTEAD_OF_SDPA
        try:
            yield
        finally:
            config._attn_implementation = usual


def attend_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    usual: Callable[[nn.Module], Callable[..., object]],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    forward_pass: ForwardPass | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention of each segment's tokens to their own row.

    Args:
        query: (1, heads, tokens of all segments, size).
        key, value: (1, key-value heads, tokens of all segments, size).
        attention_mask: left alone.
        usual: module -> the attention function for passes that are not ours.
        forward_pass: the segments; without them, the pass is not ours.

    Returns:
        (1, tokens of all segments, heads, size), and None for the attention weights.
    """
    if forward_pass is None:
        options |= {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        return cast(tuple[Tensor, None], usual(module)(module, query, key, value, attention_mask, **options))
    if options.get("s_aux") is not None:
        raise ValueError("attention sinks are not supported")
    forward_pass.windows.add(sliding_window)
    layer = module.layer_idx
    types = getattr(module.config, "layer_types", None) or []
    if types:
        layer = sum(k not in ('linear_attention', 'conv', 'moe', 'mlp') for k in types[:layer])
    assert isinstance(layer, int)
    forward_pass.write(layer, key[0], value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kernel = Kernel(forward_pass, layer, scale, sliding_window, softcap)
    return kernel.attend(query[0], value.shape[-1]).contiguous().unsqueeze(0), None


def _eager(module: nn.Module) -> Callable[..., object]:
    """The attention function that a model's own file defines for "eager"."""
    return cast(Callable[..., object], sys.modules[type(module).__module__].eager_attention_forward)


AttentionInterface.register(ROWS_INSTEAD_OF_SDPA, partial(attend_rows, usual=lambda _: _SDPA))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_SDPA, sdpa_mask)
AttentionInterface.register(ROWS_INSTEAD_OF_EAGER, partial(attend_rows, usual=_eager))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_EAGER, eager_mask)
