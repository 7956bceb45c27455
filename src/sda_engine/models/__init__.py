"""Loads a model: from an alias, a folder, a GGUF file or the Hub, onto this machine, its chat templates checked."""

from sda_engine.models.devices import explain_dtype, processor_features, resolve_device, resolve_dtype
from sda_engine.models.hub import check_hub
from sda_engine.models.loading import LoadedModel, ModelSettings, QuantizationConfig, load_model, wrap_model
from sda_engine.models.memory import MemoryLimit, available_memory, memory_limits
from sda_engine.models.packed_linear import pays_to_pack, repack_linear_layers
from sda_engine.models.registry import Registry
from sda_engine.models.stated_window import ContextWindow, ContextWindowWarning, context_window, explain_cut
from sda_engine.models.template_check import check_templates

__all__ = [
    "ContextWindow",
    "ContextWindowWarning",
    "LoadedModel",
    "MemoryLimit",
    "ModelSettings",
    "QuantizationConfig",
    "Registry",
    "available_memory",
    "check_hub",
    "check_templates",
    "context_window",
    "explain_cut",
    "explain_dtype",
    "load_model",
    "memory_limits",
    "pays_to_pack",
    "processor_features",
    "repack_linear_layers",
    "resolve_device",
    "resolve_dtype",
    "wrap_model",
]
