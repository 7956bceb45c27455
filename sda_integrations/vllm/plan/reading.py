"""The sizes of a model: of a preset, or from its configuration, of which a model without weights is made."""

from pathlib import Path

import httpx
import torch
from transformers import PreTrainedConfig

from sda_engine.cli.requests import quieten_transformers
from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.models.auto_classes import model_class_of, read_config
from sda_engine.models.hub import check_hub
from sda_engine.models.loading import find_model
from sda_integrations.vllm.plan.models import PRESETS, Experts, ModelSizes

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k")
_OTHER_CACHES = (  # settings of models whose layers store more, less or something else than a key and a value per head
    "index_topk",
    "compress_ratios",
    "layers_block_type",
    "hybrid_override_pattern",
    "block_configs",
    "attn_type_list",
    "num_kv_shared_layers",
    "global_head_dim",
    "num_global_key_value_heads",
)


def sizes_of_config(model: str) -> ModelSizes:
    """The sizes of a model that is a folder, an alias or a Hub id. Of the Hub, config.json alone is read.

    Raises:
        ModelLoadError: there is no configuration to be had.
        ConfigError: the model stores something else than a plan can count.
    """
    quieten_transformers()
    place = find_model(model)
    if isinstance(place, Path) and place.is_file():
        raise ConfigError(
            f"{model!r} is a GGUF file: a plan reads config.json. Name the folder or the Hub id it is from."
        )
    try:
        if isinstance(place, str):
            check_hub(place, None)
        config = read_config(str(place), None, model)
        with torch.device("meta"):  # parameters that take no memory
            network = model_class_of(config).from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelLoadError(
            f"The sizes of {model!r} could not be read: {reason}. Name a folder with config.json, a Hub id "
            f"'organisation/name' that this machine can reach (HF_TOKEN for a gated one), or one of "
            f"{', '.join(PRESETS)}."
        ) from error
    return sizes_of(model, config, {name: weight.numel() for name, weight in network.named_parameters()})


def sizes_of(model: str, config: PreTrainedConfig, parameters: dict[str, int]) -> ModelSizes:
    """The sizes that a configuration tells.

    Args:
        model: what the user called it.
        config: of the whole model.
        parameters: name -> how many, tied ones once.

    Raises:
        ConfigError: the model stores something else than a plan can count.
    """
    text = config.get_text_config(decoder=True)
    for name in _OTHER_CACHES:
        if getattr(text, name, None):
            raise ConfigError(f"{_uncounted(model, f'what its layers store depends on {name}')}")
    heads = text.num_attention_heads
    rank, rope = (getattr(text, name, None) for name in ("kv_lora_rank", "qk_rope_head_dim"))
    latent = isinstance(rank, int) and isinstance(rope, int) and rank > 0
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    quantization = getattr(config, "quantization_config", None) or {}
    return ModelSizes(
        name=model,
        parameters=sum(parameters.values()),
        table=text.vocab_size * text.hidden_size,
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        query_heads=heads,
        kv_heads=1 if latent else getattr(text, "num_key_value_heads", None) or heads,
        head_dim=rank + rope if latent else head_dim,  # type: ignore[operator]
        windows=_windows(model, text),
        context=text.max_position_embeddings,
        latent=latent,
        experts=_experts(model, text, parameters),
        quantization=dict(quantization).get("quant_method"),
    )


def _windows(model: str, text: PreTrainedConfig) -> tuple[tuple[int | None, int], ...]:
    """Of each kind of attention, its sliding window and how many layers have it, in the order of their first layers."""
    window = getattr(text, "sliding_window", None)
    layers = getattr(text, "layer_types", None)
    if layers is None:
        return ((window, text.num_hidden_layers),)
    known = {"full_attention": None, "sliding_attention": window}
    if unknown := sorted(set(layers) - set(known)):
        raise ConfigError(_uncounted(model, f"it has layers of type {', '.join(unknown)}"))
    return tuple((known[kind], list(layers).count(kind)) for kind in dict.fromkeys(layers))


def _experts(model: str, text: PreTrainedConfig, parameters: dict[str, int]) -> Experts | None:
    total = sum(count for name, count in parameters.items() if ".experts." in name)
    if not total:
        return None
    count, chosen = (_first(text, names) for names in (_EXPERT_COUNTS, _EXPERTS_PER_TOKEN))
    if count is None or chosen is None:
        raise ConfigError(_uncounted(model, "its configuration does not say how many experts read a token"))
    return Experts(total, count, chosen)


def _first(text: PreTrainedConfig, names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := getattr(text, name, None), int)), None)


def _uncounted(model: str, why: str) -> str:
    return (
        f"A plan cannot count what {model!r} stores of each token: {why}. Start it on the GPU, where vLLM measures it "
        f"and logs the size of its cache."
    )
