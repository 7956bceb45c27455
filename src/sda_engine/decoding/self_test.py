"""A check, when an engine is made, that a model decoded by rows says what it says by itself.

transformers lets any attention function be put in place of a model's own, but not every model does all of its attention
there: some hide a window, a bias or an offset of positions in the mask or elsewhere. Such a model would be wrong in
silence, so every model shows on two short texts that it is not one of these.

Some models attend otherwise from some length on: past a window, a chunk, a number from which queries are scaled. One of
the texts is longer than each such number that the configuration names, as far as that is cheap: it is for tiny models,
whatever they name, and seldom for large ones, which name some hundred tokens or many thousand. What a large model does
past its thresholds is known from its kinds of layers (`read_architecture` lets no others through), from what its
attention function is told, and from tiny models of the same types, with small thresholds, in the engine's own tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from sda_engine.decoding.architecture import Architecture, unsupported_model
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.states import MixerState
from sda_engine.models import context_window

_PIECES = ((3, 5, 1), (2, 1, 2))  # tokens of each row in each of three passes
_TAIL = 4  # tokens: so that there are tails, blocks that were tails, and blocks that a pass has filled
_MOST_TOKENS = 1024  # of the longer text
_MOST_WORK, _MOST_WORK_ON_CUDA = 4e9, 4e12  # its tokens times the model's weights: some tenths of a second
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit
_ROUGH_TOLERANCE = 0.1  # of the largest logit, in dtypes of eight to eleven bits
_OTHER_ATTENTION = "attention that does not go through the interface of transformers"
_OTHER_RESULT = "attention that does more than its attention function"
_OTHER_STATES = "states that do not go on alike when a text comes in pieces"
LARGEST = 1e30  # a larger logit is a mask, and says nothing of how large logits are


@dataclass(frozen=True)
class Footprint:
    """What rows take, in bytes.

    Attributes:
        token: the keys and values of one token in all layers.
        state: what a row holds beside these in layers that carry a state.
    """

    token: int
    state: int


def run_self_test(
    model: PreTrainedModel, architecture: Architecture, forward: Callable[[ForwardPass], list[Tensor]]
) -> Footprint:
    """Decode two texts by rows, and compare with the model's own forward pass.

    Args:
        model: the model.
        architecture: what its layers are.
        forward: runs a pass over segments.

    Returns:
        What rows of this model take.

    Raises:
        ModelLoadError: the two do not agree, or a layer is not what the engine takes it for.
    """
    config = model.config.get_text_config(decoder=True)
    pieces_of_rows = _pieces(model, architecture)
    texts = [make_text(config.vocab_size, sum(pieces), start) for start, pieces in enumerate(pieces_of_rows)]
    memory = RowMemory(tail=_TAIL)
    rows = [Row(memory) for _ in texts]
    for pieces in zip(*pieces_of_rows, strict=True):
        segments = [_next_segment(*row) for row in zip(rows, texts, pieces, strict=True)]
        forward_pass = ForwardPass(segments, model.device, architecture.layers)
        try:
            logits = forward(forward_pass)
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"a forward pass that fails when it runs by rows ({error})"
            if not forward_pass.attended and not _knows_interface(model):
                reason = _OTHER_ATTENTION
            raise unsupported_model(model, reason) from error
        _check_layers(model, architecture, forward_pass)
    for text, last in zip(texts, logits, strict=True):
        expected = _own_logits(model, text)
        numbers = expected[expected.abs() < LARGEST]  # broken weights are for the request that meets them to report
        largest = float(numbers.abs().max()) if numbers.numel() else 0.0
        rough = getattr(model, "is_quantized", False)  # the values in its layers may be rounded to whole numbers, too
        tolerance = (_ROUGH_TOLERANCE if rough else _TOLERANCE.get(model.dtype, _ROUGH_TOLERANCE)) * largest
        if not torch.allclose(last[-1].float().cpu(), expected, rtol=0.0, atol=tolerance, equal_nan=True):
            raise unsupported_model(model, _OTHER_STATES if architecture.recurrent_layers else _OTHER_RESULT)
    states = [
        state for piece in rows[0].cut(0, 1) for layer in range(memory.slots.layers) for state in piece.layer(layer)
    ]
    state = rows[0].state
    return Footprint(
        sum(one.nbytes for one in states), state.alone().batch.nbytes if isinstance(state, MixerState) else 0
    )


def _pieces(model: PreTrainedModel, architecture: Architecture) -> Sequence[Sequence[int]]:
    """Tokens of each row in each pass: with a first row past as many thresholds as are cheap to pass."""
    most = affordable_tokens(model)
    past = [threshold + 2 for threshold in architecture.thresholds if threshold + 2 <= most]
    (first, many, last), *others = _PIECES
    return (first, max([many, *(length - first - last for length in past)]), last), *others


def affordable_tokens(model: PreTrainedModel) -> int:
    """The most tokens that a text may have by which a model is tried when it is loaded."""
    window = context_window(model.config, VERY_LARGE_INTEGER).tokens
    work = _MOST_WORK_ON_CUDA if model.device.type == "cuda" else _MOST_WORK
    return min(window, _MOST_TOKENS, int(work / max(1, model.num_parameters())))


def make_text(vocab_size: int, length: int, start: int) -> list[int]:
    """Token ids from all over the vocabulary."""
    return [(vocab_size // 3 + 7919 * (start + place)) % vocab_size for place in range(length)]


def _next_segment(row: Row, text: Sequence[int], tokens: int) -> Segment:
    return Segment(row, text[row.length : row.length + tokens])


def _check_layers(model: PreTrainedModel, architecture: Architecture, forward_pass: ForwardPass) -> None:
    attended = forward_pass.attended
    if architecture.attending_layers and not attended:
        raise unsupported_model(model, _OTHER_ATTENTION)
    if sorted(layer for layer, _ in attended) != list(architecture.attending_layers):
        raise unsupported_model(model, "layers that do not attend once each")
    told = [window for layer, window in attended if architecture.layers[layer].has_window]
    if None in told or (told and architecture.window not in told):
        raise unsupported_model(model, "a sliding window that their attention function is not told of")


def _knows_interface(model: PreTrainedModel) -> bool:
    """Whether a model, or the decoder in it, says that its attention function can be replaced."""
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    return bool(model._supports_attention_backend or decoder._supports_attention_backend)


def _own_logits(model: PreTrainedModel, text: Sequence[int]) -> Tensor:
    """(vocab,) float32, on the CPU: what the model's own forward pass says comes after a text."""
    last_place = torch.tensor([len(text) - 1], device=model.device)
    output = model(input_ids=torch.tensor([text], device=model.device), use_cache=False, logits_to_keep=last_place)
    last: Tensor = output.logits[0, -1]
    return last.float().cpu()
