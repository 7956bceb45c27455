"""Linear layers of a float32 model on a CPU, with weights that are also kept in the layout that few tokens want.

A decoding step multiplies a handful of tokens with every weight of the model. For two to sixteen tokens the usual
float32 product takes about twice as long as reading the weights does, since it rearranges them first, every time.
Rearranged once, in oneDNN's own layout, two tokens cost about what one does.
"""

from typing import cast

import torch
from torch import Tensor, nn

from sda_engine.models.memory import available_memory

_SHARE = 0.25  # of the free memory that the second copy of the weights may take


class PackedLinear(nn.Linear):
    """A linear layer that multiplies with a packed copy of its weights, for as long as these stay what they were.

    Weights that are written through `weight.data` are not seen to change: call `pack` again after that, as an engine
    does before its next request.
    """

    _packed: Tensor | None = None
    _source: Tensor | None = None  # the weights it was made from: their memory cannot be given to others meanwhile
    _version: int = 0

    def pack(self) -> None:
        """Make the packed copy."""
        self._source, self._version = self.weight.detach(), self.weight._version
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._source, None)

    def unpack(self) -> None:
        """Drop the packed copy."""
        self._packed = self._source = None

    @property
    def is_packed(self) -> bool:
        """Whether there is a packed copy."""
        return self._packed is not None

    def forward(self, input: Tensor) -> Tensor:
        """The same as nn.Linear, up to rounding: (..., in_features) to (..., out_features)."""
        if self._packed is None or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        assert self._source is not None
        if self.weight.data_ptr() != self._source.data_ptr() or self.weight._version != self._version:
            self.unpack()
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")
        return product

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_packed", "_source", "_version")}


def pack_linear_layers(model: nn.Module) -> None:
    """Pack the linear layers of a model of our own, where that pays and the memory is there.

    It doubles what the weights take. Layers change their class, to a subclass of nn.Linear; everything else about the
    model stays as it is.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _can_be_packed(layer.weight)]
    if not pays_to_pack(sum(layer.weight.nbytes for layer in layers), available_memory()):
        return
    for layer in layers:
        layer.__class__ = PackedLinear
        cast(PackedLinear, layer).pack()


def pays_to_pack(needed: int, available: int) -> bool:
    """Whether packed copies of so many bytes are made where so many are free."""
    return _has_packed_products() and needed <= _SHARE * available


def repack_linear_layers(model: nn.Module) -> None:
    """Bring the packed copies of a model's weights up to date, however these were changed."""
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and layer.is_packed:
            if _can_be_packed(layer.weight):
                layer.pack()
            else:
                layer.unpack()


def _can_be_packed(weight: Tensor) -> bool:
    is_plain = type(weight) in (Tensor, nn.Parameter)  # and not, say, quantized values that pass for numbers
    return is_plain and weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()


def _has_packed_products() -> bool:
    """Whether this build of torch has oneDNN and the operators that its compiler packs weights with."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
