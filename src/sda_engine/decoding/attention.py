"""Attention over rows of any lengths in one forward pass, as an attention implementation of transformers.

The tokens of all rows stand behind one another in one sequence, so that every linear layer sees them as one matrix and
nothing is padded. Only attention tells the rows apart: each row's queries meet that row's own keys and values. That a
model's layers can be given another attention function, and keyword arguments for it, is the interface on which
transformers' own continuous batching stands.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from sda_engine.decoding.forward_pass import ForwardPass, running_pass
from sda_engine.decoding.kernels import Kernel
from sda_engine.decoding.reach import Reach
from sda_engine.forks import make_lock

ROWS_INSTEAD_OF_SDPA, ROWS_INSTEAD_OF_EAGER = "sda_rows_sdpa", "sda_rows_eager"
_SDPA: Callable[..., object] = sdpa_attention_forward
_switches: "WeakKeyDictionary[PreTrainedModel, _Switch]" = WeakKeyDictionary()


@contextmanager
def row_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends by rows in passes of ours; those of somebody else go on as they always do.

    One block at a time per model: what waits is a pass of another engine that runs the same one.
    """
    switch = _switches.get(model) or _switches.setdefault(model, _Switch(model))
    with switch.lock:
        usual = [config._attn_implementation for config in switch.configs]
        try:
            for config, name in zip(switch.configs, usual, strict=True):
                config._attn_implementation = ROWS_INSTEAD_OF_EAGER if name == "eager" else ROWS_INSTEAD_OF_SDPA
            yield
        finally:
            for config, name in zip(switch.configs, usual, strict=True):
                config._attn_implementation = name


class _Switch:
    """What it takes to give a model's layers another attention function.

    Attributes:
        lock: held while they have it.
        configs: where they look its name up; some models give their layers copies of the decoder's configuration.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.lock = make_lock()
        decoder = model.config.get_text_config(decoder=True)
        found = [decoder, *(getattr(module, "config", None) for module in model.modules())]
        self.configs = list({id(config): config for config in found if type(config) is type(decoder)}.values())


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
        forward_pass: the segments, where the model hands keyword arguments down.
        options: among them `s_aux`, (heads,), the scores of attention sinks.

    Returns:
        (1, tokens of all segments, heads, size), and None for the attention weights.
    """
    forward_pass = _our_pass(forward_pass)
    if forward_pass is None:
        indices = options.get("indices")
        if isinstance(indices, Tensor) and attention_mask is not None:
            attention_mask = _mask_of_indices(attention_mask, indices)
        options |= {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        return cast(tuple[Tensor, None], usual(module)(module, query, key, value, attention_mask, **options))
    number = cast(int, module.layer_idx)
    layer = forward_pass.layers[number] if number < len(forward_pass.layers) else None
    if layer is None or layer.place is None:
        raise ValueError(f"layer {number} attends, and the configuration tells of no such layer")
    forward_pass.attended.append((number, sliding_window))
    if layer.stores:
        forward_pass.write(layer.place, key[0], value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    sinks = cast(Tensor | None, options.get("s_aux"))
    kernel = Kernel(forward_pass, layer.place, scale, Reach(sliding_window, layer.chunk), softcap, sinks)
    return kernel.attend(query[0], value.shape[-1]).contiguous().unsqueeze(0), None


def _our_pass(handed_down: ForwardPass | None) -> ForwardPass | None:
    """The pass that a layer takes part in, where it is ours.

    Some models hand no keyword arguments down to their layers (Nemotron). Then it is the pass of this thread: unless
    that came down before, for then a layer that is not given it belongs to somebody else's pass within ours.
    """
    if handed_down is not None:
        handed_down.is_handed_down = True
        return handed_down
    running = running_pass()
    return None if running is None or running.is_handed_down else running


def _mask_of_indices(mask: Tensor, indices: Tensor) -> Tensor:
    """What layers with indexed attention do themselves where their attention function is one of two that they know.

    Args:
        mask: (rows, 1, queries, keys), of bool or to be added.
        indices: (rows, queries, chosen), the keys that each query may see.
    """
    chosen = torch.zeros(*indices.shape[:2], mask.shape[-1], dtype=torch.bool, device=mask.device)
    chosen = chosen.scatter(-1, indices.long(), True).unsqueeze(1)
    return mask & chosen if mask.dtype == torch.bool else mask.masked_fill(~chosen, torch.finfo(mask.dtype).min)


def _eager(module: nn.Module) -> Callable[..., object]:
    """The attention function that a model's own file defines for "eager"."""
    return cast(Callable[..., object], sys.modules[type(module).__module__].eager_attention_forward)


AttentionInterface.register(ROWS_INSTEAD_OF_SDPA, partial(attend_rows, usual=lambda _: _SDPA))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_SDPA, sdpa_mask)
AttentionInterface.register(ROWS_INSTEAD_OF_EAGER, partial(attend_rows, usual=_eager))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_EAGER, eager_mask)
