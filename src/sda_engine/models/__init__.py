"""Loads a model: from an alias, a folder, a GGUF file or the Hub, onto this machine, its chat templates checked."""

from sda_engine.models.context_window import context_window_of
from sda_engine.models.devices import resolve_device, resolve_dtype
from sda_engine.models.hub import check_hub
from sda_engine.models.loading import LoadedModel, ModelSettings, QuantizationConfig, load_model, wrap_model
from sda_engine.models.template_check import check_templates
from sda_engine.models.weights import WeightsIdentity

__all__ = [
    "LoadedModel",
    "ModelSettings",
    "QuantizationConfig",
    "WeightsIdentity",
    "check_hub",
    "check_templates",
    "context_window_of",
    "load_model",
    "resolve_device",
    "resolve_dtype",
    "wrap_model",
]
