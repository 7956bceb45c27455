"""Loads a model: from an alias, a folder, a GGUF file or the Hub, onto this machine, its chat templates checked."""

from sda_engine.models.devices import resolve_device, resolve_dtype
from sda_engine.models.hub import check_hub
from sda_engine.models.loading import LoadedModel, ModelSettings, QuantizationConfig, load_model, wrap_model
from sda_engine.models.template_check import check_templates

__all__ = [
    "LoadedModel",
    "ModelSettings",
    "QuantizationConfig",
    "check_hub",
    "check_templates",
    "load_model",
    "resolve_device",
    "resolve_dtype",
    "wrap_model",
]
