"""Notices that a model is no longer the one whose keys and values are stored.

Weights are replaced, trained on and moved, and adapters put on and taken off, under an engine that goes on. Whatever
does that leaves a trace: another tensor, another version of one, another layer, hook or setting of an adapter's layer.
Writing through `weight.data` leaves none, so that some values of each weight are looked at as well, on a CPU, where it
costs nothing to look.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from functools import lru_cache

import torch
from torch import Tensor, nn

from sda_engine.models.adapters import as_given, settings_as_given

_SAMPLE = 8  # values in the middle of each weight
_SAMPLED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SCALARS = (bool, int, float, str, type(None))
_OF_LIBRARIES = ("torch", "transformers", "sda_engine")  # whose layers keep no settings that change between requests


class StandIn:
    """What a layer's `forward` is while a pass of ours runs, which changes nothing about the model.

    Args:
        run: what is called in its place.
        usual: somebody's forward that the layer itself keeps at other times; None where its class has it.
    """

    def __init__(self, run: Callable[..., Tensor], usual: Callable[..., Tensor] | None) -> None:
        self._run = run
        self.usual = usual

    def __call__(self, *arguments: object, **options: object) -> Tensor:
        """Call what stands in."""
        return self._run(*arguments, **options)


class Change(Enum):
    """What has changed about a model."""

    NOTHING = auto()
    LAYERS = auto()
    WEIGHTS = auto()


class ModelWatch:
    """Looks at a model now and then: once for each request, which takes half a millisecond.

    An adapter that keeps what it depends on elsewhere, in the closure of a hook say, changes unseen. Weights that were
    replaced are kept in memory until the next look.

    Args:
        model: what to look at.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[object] = []
        self._weights: list[int] = []
        self._views: list[Tensor] = []
        self._samples = b""
        self.look()

    def look(self) -> Change:
        """What has changed since the last look; everything, where another thread is about to change it."""
        try:
            with as_given():
                layers, weights = _traces(self._model)
            if weights != self._weights:
                self._views = _sample_views(self._model)
            samples = _bytes_of(self._views)
        except (RuntimeError, KeyError, AttributeError, ValueError):
            self._layers, self._weights, self._views = [], [], []
            return Change.WEIGHTS
        same_weights = weights == self._weights and samples == self._samples
        same_layers = layers == self._layers
        self._layers, self._weights, self._samples = layers, weights, samples
        return Change.WEIGHTS if not same_weights else Change.NOTHING if same_layers else Change.LAYERS


def _traces(model: nn.Module) -> tuple[list[object], list[int]]:
    """Everything that tells one state of a model from another but the values of its weights."""
    layers: list[object] = []
    weights: list[int] = []
    for layer in _layers(model):
        parts = layer.__dict__
        layers += (id(layer), type(layer), parts["training"])
        forward = parts.get("forward")
        if isinstance(forward, StandIn):
            forward = forward.usual
        if forward is not None:
            layers.append(forward)
        for hooks in (parts["_forward_pre_hooks"], parts["_forward_hooks"]):
            layers += hooks
        if not _is_of_a_library(type(layer).__module__):
            layers += _settings(settings_as_given(layer))
        for tensors in (parts["_parameters"], parts["_buffers"]):
            for weight in tensors.values():
                if weight is not None:
                    weights += _trace_of(weight)
    return layers, weights


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    waiting = [model]
    while waiting:
        layer = waiting.pop()
        yield layer
        if children := layer.__dict__["_modules"]:
            waiting += [child for child in children.values() if child is not None]


def _trace_of(weight: Tensor) -> tuple[int, ...]:
    try:
        place = weight.data_ptr()
        if place == 0 and not weight.is_meta:  # one that wraps others; a meta tensor stands for what each pass loads
            return id(weight), weight._version
        return place, weight._version
    except RuntimeError:  # tensors of inference mode have no version, and some that wrap others no memory
        return (id(weight),)


def _settings(parts: Mapping[str, object]) -> Iterator[object]:
    """What a layer keeps beside weights and layers: a scale, which adapters are on, whether they are merged."""
    for name, value in parts.items():
        if isinstance(value, _SCALARS):
            yield name, value
        elif isinstance(value, (list, tuple)) and all(isinstance(part, _SCALARS) for part in value):
            yield name, tuple(value)
        elif isinstance(value, dict) and all(isinstance(part, _SCALARS) for part in value.values()):
            yield name, tuple(value.items())


@lru_cache(maxsize=1024)
def _is_of_a_library(module: str) -> bool:
    return module.partition(".")[0] in _OF_LIBRARIES


@torch.inference_mode()
def _sample_views(model: nn.Module) -> list[Tensor]:
    """Views of some values of each weight that is on the CPU."""
    views = []
    for weight in (*model.parameters(), *model.buffers()):
        if weight.device.type == "cpu" and weight.dtype in _SAMPLED and weight.numel() and weight.is_contiguous():
            start = max(0, min(weight.numel() // 2, weight.numel() - _SAMPLE))
            views.append(weight.detach().view(-1)[start : start + _SAMPLE])
    return views


@torch.inference_mode()
def _bytes_of(views: list[Tensor]) -> bytes:
    return torch.cat(views).view(torch.uint8).numpy().tobytes() if views else b""
