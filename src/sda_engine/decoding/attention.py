"""Attention over rows of any lengths in one forward pass, as an attention implementation of transformers.

The tokens of all rows stand behind one another in one sequence, so that every linear layer sees them as one matrix and
nothing is padded. Only attention tells the rows apart: each row's queries meet that row's own keys and values. That a
model's layers can be given another attention function, and keyword arguments for it, is the interface on which
transformers' own continuous batching stands.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from sda_engine.decoding.rows import Row
from sda_engine.errors import ModelLoadError
from sda_engine.forks import make_lock

ROWS_INSTEAD_OF_SDPA, ROWS_INSTEAD_OF_EAGER = "sda_rows_sdpa", "sda_rows_eager"
_SDPA: Callable[..., object] = sdpa_attention_forward
_locks: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()
_LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Segment:
    """What a forward pass adds to one row.

    Attributes:
        token_ids: at least one.
        keep: the logits after the last so many tokens are wanted.
    """

    row: Row
    token_ids: Sequence[int]
    keep: int = 1


@dataclass
class ForwardPass:
    """The segments of one forward pass, and the masks that its layers share.

    Attributes:
        windows: the sliding windows of the layers that it went through; None for full attention.
    """

    segments: Sequence[Segment]
    windows: set[int | None] = field(default_factory=set)
    _masks: dict[tuple[int, int | None, torch.device], Tensor] = field(default_factory=dict)

    def mask(self, place: int, window: int | None, device: torch.device) -> Tensor:
        """(tokens, keys) bool: which keys each token of a segment sees: itself and what is before it, or its window."""
        kind = (place, window, device)
        if kind not in self._masks:
            segment = self.segments[place]
            start, tokens = segment.row.length, len(segment.token_ids)
            keys = torch.arange(start + tokens, device=device)
            queries = torch.arange(start, start + tokens, device=device).unsqueeze(-1)
            seen = keys <= queries
            self._masks[kind] = seen if window is None else seen & (keys > queries - window)
        return self._masks[kind]


def check_attention(model: PreTrainedModel) -> None:
    """Refuse a model of which it is known beforehand that its attention cannot be told apart by rows.

    Raises:
        ModelLoadError: its attention function cannot be replaced, or it keeps other states than keys and values.
    """
    config = model.config.get_text_config(decoder=True)
    reasons = {
        "recurrent states": getattr(model, "_is_stateful", False),
        "layers other than full and sliding-window attention": set(getattr(config, "layer_types", None) or ())
        - _LAYER_TYPES,
        "layers that share keys and values": getattr(config, "num_kv_shared_layers", 0),
        "attention that depends on how long the text is": getattr(config, "attn_temperature_tuning", False),
        "an attention function that cannot be replaced": not model._supports_attention_backend,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise unsupported_model(model, found[0])


def unsupported_model(model: PreTrainedModel, reason: str) -> ModelLoadError:
    """The error for a model that the engine would run wrongly."""
    return ModelLoadError(
        f"Models of type {model.config.model_type!r} have {reason}, and the engine cannot decode several rows of them "
        f"in one pass. Load a model of another type, such as Llama, Qwen, Mistral, Phi or Gemma 3."
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
    assert isinstance(layer, int)
    attend = scaled_dot_product_attention if softcap is None else _capped_attention(softcap)
    sizes = [len(segment.token_ids) for segment in forward_pass.segments]
    parts = zip(*(torch.split(states, sizes, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for place, (queries, new_keys, new_values) in enumerate(parts):
        row, tokens = forward_pass.segments[place].row, sizes[place]
        keys, values = row.write(layer, new_keys, new_values)
        if tokens == 1 and sliding_window is not None:
            keys, values = keys[:, :, -sliding_window:], values[:, :, -sliding_window:]
        causal = row.length == 0 and sliding_window is None  # faster than a mask that says the same
        outputs.append(
            attend(
                queries,
                keys,
                values,
                attn_mask=None if tokens == 1 or causal else forward_pass.mask(place, sliding_window, query.device),
                is_causal=causal,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _capped_attention(softcap: float) -> Callable[..., Tensor]:
    """Attention with scores that a tanh keeps within +-softcap, as Gemma 2 has it."""

    def attend(
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        attn_mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> Tensor:
        groups = query.shape[1] // keys.shape[1] if enable_gqa else 1
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = softcap * torch.tanh(scores / softcap)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        return torch.softmax(scores.float(), dim=-1).to(query.dtype) @ values

    return attend


def _eager(module: nn.Module) -> Callable[..., object]:
    """The attention function that a model's own file defines for "eager"."""
    return cast(Callable[..., object], sys.modules[type(module).__module__].eager_attention_forward)


AttentionInterface.register(ROWS_INSTEAD_OF_SDPA, partial(attend_rows, usual=lambda _: _SDPA))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_SDPA, sdpa_mask)
AttentionInterface.register(ROWS_INSTEAD_OF_EAGER, partial(attend_rows, usual=_eager))
AttentionMaskInterface.register(ROWS_INSTEAD_OF_EAGER, eager_mask)
