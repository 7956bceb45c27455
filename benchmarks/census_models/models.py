"""Tiny random models of all types, in which attention and every position make a difference."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from unittest.mock import patch

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

from .configs import tiny_config
from .settings import Settings
from .types import Group

_AUTO_CLASSES: Mapping[Group, type] = MappingProxyType(
    {"vision": AutoModelForImageTextToText, "encoder-decoder": AutoModelForSeq2SeqLM}
)
# What a random value would make a state explode, or forget at once, by
_KEPT = ("A_log", "dt_bias", ".D", "slope", "conv1d", "lambda")
# Types that scale their embeddings up: beside large ones nothing that layers add would count
_SCALED_UP = ("gemma", "minicpm3", "biogpt", "bloom", "xglm", "zamba")
_FIRST_SEED = 3


def tiny_model(
    model_type: str,
    group: Group = "decoder",
    *,
    sizes: Settings = MappingProxyType({}),
    seed: int = _FIRST_SEED,
) -> PreTrainedModel:
    """A random model in float32; torch's global random state is left alone.

    Args:
        model_type: as transformers names it, or a variant of `settings.VARIANTS`.
        group: what to build it as. A tower of timm is left empty.
        sizes: in place of common ones.
        seed: of the weights.
    """
    auto_class = _AUTO_CLASSES.get(group, AutoModelForCausalLM)
    with torch.random.fork_rng(devices=[]), _empty_timm_towers():
        torch.manual_seed(0)
        model: PreTrainedModel = auto_class.from_config(tiny_config(model_type, sizes), dtype=torch.float32)
    model.train(False)
    draw_weights(model, seed)
    return model


def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Draw a model's weights anew, large enough that no layer and no position is without effect."""
    scaled_up = model.config.model_type.startswith(_SCALED_UP) or "gemma" in model.config.model_type
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if not weights.is_floating_point() or any(part in name for part in _KEPT):
                continue
            drawn = torch.randn(weights.shape, generator=generator)
            if weights.ndim == 1:
                weights.add_(0.2 * drawn)
            elif weights.ndim == 2:
                weights.copy_(_scale(name, weights.shape[1], scaled_up=scaled_up) * drawn)
            elif weights.ndim == 3 and "expert" in name:
                weights.copy_(1.6 / max(weights.shape[1:]) ** 0.5 * drawn)


def _scale(name: str, inputs: int, *, scaled_up: bool) -> float:
    if "embed" in name and scaled_up:
        return 0.05
    return 0.5 if "embed" in name or "wte" in name else 1.6 / inputs**0.5


def _empty_timm_towers() -> AbstractContextManager[object]:
    """Let what wraps a model of timm, which need not be installed, wrap nothing."""

    def wrap_nothing(wrapper: TimmWrapperModel, config: object) -> None:
        PreTrainedModel.__init__(wrapper, config)  # type: ignore[arg-type]
        wrapper.timm_model = nn.Linear(1, 1)

    return patch.object(TimmWrapperModel, "__init__", wrap_nothing)
