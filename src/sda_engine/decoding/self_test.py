"""A check, when an engine is made, that a model decoded by rows says what it says by itself.

transformers lets any attention function be put in place of a model's own, but not every model does all of its attention
there: some hide a window, a bias or an offset of positions in the mask or elsewhere. Such a model would be wrong in
silence, so every model shows on two short texts that it is not one of these.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.attention import unsupported_model
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment

_PIECES = ((3, 5, 1), (2, 1, 2))  # tokens of each row in each of three passes
_TAIL = 4  # tokens: so that there are tails, blocks that were tails, and blocks that a pass has filled
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit
_ROUGH_TOLERANCE = 0.1  # of the largest logit, in dtypes of eight to eleven bits


def run_self_test(model: PreTrainedModel, forward: Callable[[ForwardPass], list[Tensor]]) -> int:
    """Decode two texts by rows, and compare with the model's own forward pass.

    Args:
        model: the model.
        forward: runs a pass over segments.

    Returns:
        Bytes that the keys and values of one token take in all layers.

    Raises:
        ModelLoadError: the two do not agree, or a layer is not what the engine takes it for.
    """
    config = model.config.get_text_config(decoder=True)
    texts = [_text(config.vocab_size, sum(pieces), start) for start, pieces in enumerate(_PIECES)]
    memory = RowMemory(tail=_TAIL)
    rows = [Row(memory) for _ in texts]
    try:
        for pieces in zip(*_PIECES, strict=True):
            segments = [_next_segment(*row) for row in zip(rows, texts, pieces, strict=True)]
            forward_pass = ForwardPass(segments, model.device)
            logits = forward(forward_pass)
            _check_layers(model, memory, forward_pass)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise unsupported_model(model, f"a forward pass that fails when it runs by rows ({error})") from error
    for text, last in zip(texts, logits, strict=True):
        expected = _own_logits(model, text)
        finite = expected[expected.isfinite()]  # broken weights are for the request that meets them to report
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        rough = getattr(model, "is_quantized", False)  # the values in its layers may be rounded to whole numbers, too
        tolerance = (_ROUGH_TOLERANCE if rough else _TOLERANCE.get(model.dtype, _ROUGH_TOLERANCE)) * largest
        if not torch.allclose(last[-1].float().cpu(), expected, rtol=0.0, atol=tolerance, equal_nan=True):
            raise unsupported_model(model, "attention that does more than its attention function")
    states = [
        state for piece in rows[0].cut(0, 1) for layer in range(memory.slots.layers) for state in piece.layer(layer)
    ]
    return sum(state.nbytes for state in states)


def _text(vocab_size: int, length: int, start: int) -> list[int]:
    """Token ids from all over the vocabulary."""
    return [(vocab_size // 3 + 7919 * (start + place)) % vocab_size for place in range(length)]


def _next_segment(row: Row, text: Sequence[int], tokens: int) -> Segment:
    return Segment(row, text[row.length : row.length + tokens])


def _check_layers(model: PreTrainedModel, memory: RowMemory, forward_pass: ForwardPass) -> None:
    config = model.config.get_text_config(decoder=True)
    if memory.slots.layers != config.num_hidden_layers:
        raise unsupported_model(model, "layers that do not attend once each")
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if window is not None and (types is None or "sliding_attention" in types) and window not in forward_pass.windows:
        raise unsupported_model(model, "a sliding window that their attention function is not told of")


def _own_logits(model: PreTrainedModel, text: Sequence[int]) -> Tensor:
    """(vocab,) float32, on the CPU: what the model's own forward pass says comes after a text."""
    output = model(input_ids=torch.tensor([text], device=model.device), use_cache=False)
    last: Tensor = output.logits[0, -1]
    return last.float().cpu()
