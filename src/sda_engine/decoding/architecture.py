"""What a decoder is made of, as far as running rows of several texts in one pass depends on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from sda_engine.errors import ModelLoadError
from sda_engine.forks import lazy_property

ANOTHER_TYPE = "Load a model of another type, such as Llama, Qwen 3, Mistral, Phi 4, Gemma 3 or gpt-oss."
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "indexed_attention"}
_MIXERS = {"linear_attention", "conv"}
_BOTH = {"hybrid", "hybrid_sliding"}
_NEITHER = {"moe", "mlp", "dummy"}
_KNOWN = _ATTENTION | _MIXERS | _BOTH | _NEITHER
_THRESHOLDS = ("attention_chunk_size", "floor_scale", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a decoder.

    Attributes:
        kind: as transformers calls it, such as "sliding_attention".
        place: where its keys and values stand among those of all layers that store some; None where it has no
            attention.
        stores: whether it stores them; else they are those of an earlier layer.
        chunk: tokens of the chunks within which it attends; None where it knows no chunks.
    """

    kind: str
    place: int | None
    stores: bool
    chunk: int | None = None

    @property
    def attends(self) -> bool:
        """Whether it has attention, alone or beside something else."""
        return self.place is not None

    @property
    def is_recurrent(self) -> bool:
        """Whether it keeps a recurrent or convolutional state, alone or beside keys and values."""
        return self.kind in _MIXERS or self.kind in _BOTH

    @property
    def has_window(self) -> bool:
        """Whether it attends within a sliding window."""
        return self.kind in {"sliding_attention", "hybrid_sliding"}


@dataclass(frozen=True)
class Architecture:
    """The layers of a decoder.

    Attributes:
        layers: in order.
        scales_by_position: whether some of them scale their queries by positions that they count themselves.
        window: tokens of the sliding window that the configuration names for some of them; None for none.
        thresholds: numbers of tokens past which some of them attend otherwise, or may.
    """

    layers: tuple[Layer, ...]
    scales_by_position: bool
    window: int | None
    thresholds: tuple[int, ...]

    @lazy_property
    def attending_layers(self) -> tuple[int, ...]:
        """Those with attention."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.attends)

    @lazy_property
    def recurrent_layers(self) -> tuple[int, ...]:
        """Those with a recurrent or convolutional mixer, some of which may attend too."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.is_recurrent)


def read_architecture(model: PreTrainedModel) -> Architecture:
    """What a model's configuration says of its layers.

    The kinds of layers that the engine knows are listed, and no other is let through: what a new kind does beyond some
    number of tokens would show in no short test.

    Raises:
        ModelLoadError: there are other layers, or states that no list of layers tells of.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds is None and getattr(config, "num_hidden_layers", None) is None:
        raise unsupported_model(model, "a configuration that does not say how many layers there are")
    if kinds is None and getattr(model, "_is_stateful", False):  # of the class: says nothing where layers are named
        raise unsupported_model(model, "recurrent states")
    known = _KNOWN if isinstance(getattr(config, "index_topk", None), int) else _KNOWN - {"indexed_attention"}
    if others := sorted(set(kinds or ()) - known):
        raise unsupported_model(model, f"layers of a kind that the engine does not know ({', '.join(others)})")
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * config.num_hidden_layers
    layers = _layers(config, kinds)
    has_windows = any(layer.has_window for layer in layers)
    return Architecture(
        layers=layers,
        scales_by_position=bool(getattr(config, "attn_temperature_tuning", False)),
        window=window if has_windows else None,
        thresholds=_thresholds(config, *(["sliding_window"] if has_windows else [])),
    )


def unsupported_model(model: PreTrainedModel, reason: str) -> ModelLoadError:
    """The error for a model that the engine would run wrongly.

    Args:
        reason: what such models have, in a few words.
    """
    return ModelLoadError(
        f"Models of type {model.config.model_type!r} have {reason}, and the engine cannot decode several rows of them "
        f"in one pass. {ANOTHER_TYPE}",
        reason=reason,
    )


def _layers(config: PreTrainedConfig, kinds: Sequence[str]) -> tuple[Layer, ...]:
    sharing = getattr(config, "kv_sharing_modes", None) or [None] * len(kinds)
    layers: list[Layer] = []
    places: dict[str, int] = {}  # of the layers of each kind whose keys and values later ones use
    stored = 0
    for kind, mode in zip(kinds, sharing, strict=True):
        if kind in _MIXERS or kind in _NEITHER:
            layers.append(Layer(kind, None, stores=False))
            continue
        chunk = config.attention_chunk_size if kind == "chunked_attention" else None
        if mode == "reuse":
            layers.append(Layer(kind, places[kind], stores=False, chunk=chunk))
            continue
        if mode == "store":
            places[kind] = stored
        layers.append(Layer(kind, stored, stores=True, chunk=chunk))
        stored += 1
    return tuple(layers)


def _thresholds(config: PreTrainedConfig, *more: str) -> tuple[int, ...]:
    """What a configuration names under the names of thresholds, at its top and among its parameters of positions."""
    ropes = getattr(config, "rope_parameters", None) or {}
    found = [getattr(config, name, None) for name in (*_THRESHOLDS, *more)]
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict):
            found += [rope.get(name) for name in _THRESHOLDS]
    return tuple(sorted({number for number in found if isinstance(number, int) and number > 0}))
