"""Tiny configs of all types: the common sizes for the names that a type has, then what it needs beside them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .settings import TEXT_SETTINGS, VARIANT, VARIANTS, Settings
from .shape import LAYERS, SHAPE
from .vision_settings import VISION_SETTINGS

_KINDS_BY_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")
# Lists that name some layers by their number
_LAYER_NUMBERS = (
    "moe_layers",
    "full_attn_idxs",
    "cross_attention_layers",
    "fullatt_block_indexes",
    "intermediate_layers_indices",
    "attn_layer_indices",
    "ple_layer_ids",
    "local_layer_ids",
    "rope_scaling_layers",
)
# A type whose default is None goes without them
_MAY_BE_LEFT_OUT = ("sliding_window", "q_lora_rank", "attention_chunk_size", "n_group", "topk_group", "head_dim")


def tiny_config(model_type: str, sizes: Settings = MappingProxyType({})) -> PreTrainedConfig:
    """A config of four layers.

    Args:
        model_type: as transformers names it, or a variant of `settings.VARIANTS`.
        sizes: in place of common ones, where the type has a name for them.
    """
    config_class = CONFIG_MAPPING[model_type.partition(VARIANT)[0]]
    settings = {**VISION_SETTINGS, **TEXT_SETTINGS, **VARIANTS}.get(model_type, {})
    return cast(PreTrainedConfig, config_class(**_arguments(config_class, settings, {**SHAPE, **sizes})))


def _arguments(config_class: type[PreTrainedConfig], settings: Settings, shape: Settings) -> dict[str, object]:
    """What to make a config of a class with: a shape, and what the type needs beside it."""
    default = config_class()
    stated = default.to_dict()
    arguments = _sizes(default, stated, shape) | _lists(stated)
    for name in _MAY_BE_LEFT_OUT:
        if name in stated and stated[name] is None:
            arguments.pop(name, None)
    arguments |= _parts(config_class, default, settings, shape)
    for name, value in settings.items():
        part = arguments.get(name)
        is_part = name in config_class.sub_configs and isinstance(part, dict) and isinstance(value, Mapping)
        arguments[name] = {**part, **value} if is_part else value
    return arguments


def _sizes(default: PreTrainedConfig, stated: Settings, shape: Settings) -> dict[str, object]:
    """The sizes that a config has a name for, each once."""
    names = {*stated, *default.attribute_map}
    sizes = {name: value for name, value in shape.items() if name in names}
    for alias, name in default.attribute_map.items():
        if alias != name and name in sizes:
            sizes.pop(alias, None)
    heads, shared = stated.get("num_attention_heads"), stated.get("num_key_value_heads")
    if shared is not None and heads == shared:
        sizes["num_key_value_heads"] = sizes.get("num_attention_heads", shape["num_attention_heads"])
    turned = stated.get("qk_rope_head_dim")
    if turned and turned == stated.get("head_dim"):
        sizes["head_dim"] = sizes["qk_rope_head_dim"]
    return {name: _token_ids(name, size, stated.get(name)) for name, size in sizes.items()}


def _token_ids(name: str, size: object, stated: object) -> object:
    """In a list where the type's default has several, as of tokens that end an answer."""
    return [size] if name.endswith("_token_id") and isinstance(stated, list) else size


def _lists(stated: Settings) -> dict[str, object]:
    """Lists over layers, cut to our number of layers. Of kinds of layers each is there, in the order of the default."""
    layers = stated.get("num_hidden_layers") or stated.get("n_layer") or stated.get("num_layers")
    lists: dict[str, object] = {}
    for name, value in stated.items():
        if not isinstance(value, list) or not value or name == "hybrid_layer_ids":  # which makes its own
            continue
        if name in _LAYER_NUMBERS:
            lists[name] = [number for number in value if isinstance(number, int) and number < LAYERS]
        elif name in _KINDS_BY_LAYER:
            kinds = list(dict.fromkeys(value))
            lists[name] = [kinds[place % len(kinds)] for place in range(LAYERS)]
        elif len(value) == layers and all(isinstance(one, int | float | str) for one in value):
            lists[name] = value[:LAYERS]
    return lists


def _parts(
    config_class: type[PreTrainedConfig], default: PreTrainedConfig, settings: Settings, shape: Settings
) -> dict[str, dict[str, object]]:
    """Arguments of the configs that a config holds: of its decoder, of its towers."""
    parts = {}
    for name, part_class in config_class.sub_configs.items():
        own = settings.get(name)
        own = own if isinstance(own, Mapping) else {}
        held = getattr(default, name, None)
        if held is None:
            if own and part_class is not AutoConfig:
                parts[name] = _arguments(part_class, own, shape)
        elif own.get("model_type", held.model_type) != held.model_type:  # another tower altogether
            parts[name] = dict(own)
        else:
            named = {"model_type": held.model_type} if part_class is AutoConfig else {}
            parts[name] = _arguments(type(held), own, shape) | named
    return parts
