"""Loads a model: from an alias, a folder, a GGUF file or the Hub, onto this machine, its chat templates tried out."""

from sda_engine.models.adapters import Adapter, Adapters, adapter_at_work
from sda_engine.models.context_window import context_window_of
from sda_engine.models.devices import explain_dtype, processor_features, resolve_device, resolve_dtype
from sda_engine.models.hub import check_hub
from sda_engine.models.loading import LoadedModel, ModelFacts, ModelSettings, QuantizationConfig, load_model, wrap_model
from sda_engine.models.memory import MemoryLimit, available_memory, memory_limits
from sda_engine.models.model_watch import Change, ModelWatch, StandIn
from sda_engine.models.packed_linear import pays_to_pack, repack_linear_layers
from sda_engine.models.registry import Registry
from sda_engine.models.stated_window import ContextWindow, ContextWindowWarning, context_window, explain_cut
from sda_engine.models.template_check import check_templates
from sda_engine.models.template_turns import TurnRules, find_turn_rules, merge_leading_system
from sda_engine.models.template_variables import (
    TemplateValue,
    check_template_names,
    check_template_values,
    template_variables,
)
from sda_engine.models.weights import WeightsIdentity

__all__ = [
    "Adapter",
    "Adapters",
    "Change",
    "ContextWindow",
    "ContextWindowWarning",
    "LoadedModel",
    "MemoryLimit",
    "ModelFacts",
    "ModelSettings",
    "ModelWatch",
    "QuantizationConfig",
    "Registry",
    "StandIn",
    "TemplateValue",
    "TurnRules",
    "WeightsIdentity",
    "adapter_at_work",
    "available_memory",
    "check_hub",
    "check_template_names",
    "check_template_values",
    "check_templates",
    "context_window",
    "context_window_of",
    "explain_cut",
    "explain_dtype",
    "find_turn_rules",
    "load_model",
    "memory_limits",
    "merge_leading_system",
    "pays_to_pack",
    "processor_features",
    "repack_linear_layers",
    "resolve_device",
    "resolve_dtype",
    "template_variables",
    "wrap_model",
]
