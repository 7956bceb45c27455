"""Which class of transformers a model is loaded as: one of text alone, or one that sees pictures as well."""

from importlib.metadata import version

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from sda_engine.errors import ModelLoadError

_SEEING = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
AutoClass = type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]


def read_config(source: str, revision: str | None, model: str) -> PreTrainedConfig:
    """The configuration of a model whose class transformers has itself.

    Args:
        source: a folder, or a Hub id.
        revision: of a Hub model.
        model: what the user called it.

    Raises:
        ModelLoadError: only Python code beside the model's files could read it.
        OSError, ValueError: there is none, or it cannot be read.
    """
    told, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    brings_code = bool(told.get("auto_map"))
    if brings_code and told.get("model_type") not in CONFIG_MAPPING:
        raise _only_by_its_code(model, str(told.get("model_type")))
    config: PreTrainedConfig = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    if brings_code and not _is_known(config):
        raise _only_by_its_code(model, config.model_type)
    return config


def model_class_of(config: PreTrainedConfig) -> AutoClass:
    """The auto class that loads models of a configuration.

    Some types have both a class for text alone and one that sees: then it is the one that the files were saved from,
    or else the one for text.

    Raises:
        ValueError: transformers has no class for it that writes text.
    """
    if not _is_known(config):
        raise ValueError(f"transformers has no class for models of type {config.model_type!r} that writes text")
    sees, writes = sees_pictures(config), type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if sees and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"models of type {config.model_type!r} have an encoder for the text beside the decoder, and the engine "
            f"steers decoders alone"
        )
    if sees and writes:
        saved_from = set(config.architectures or ())
        for_text, for_both = (_names(one[type(config)]) for one in (MODEL_FOR_CAUSAL_LM_MAPPING, _SEEING))
        sees = bool(saved_from & for_both) and not saved_from & for_text
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def sees_pictures(config: PreTrainedConfig) -> bool:
    """Whether transformers has a class for the configuration that sees pictures."""
    return type(config) in _SEEING


def _is_known(config: PreTrainedConfig) -> bool:
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or sees_pictures(config)


def _names(classes: object) -> set[str]:
    """The names of what a mapping has for a configuration: one class, or several."""
    several = classes if isinstance(classes, (list, tuple)) else (classes,)
    return {one.__name__ for one in several if isinstance(one, type)}


def _only_by_its_code(model: str, model_type: str) -> ModelLoadError:
    return ModelLoadError(
        f"The model {model!r} could not be loaded: its type {model_type!r} has no class in transformers "
        f"{version('transformers')}, only Python code of its own (auto_map in its config.json), and such code is never "
        f"run here (trust_remote_code stays off). Choose a model whose class transformers has, or a later version of "
        f"transformers that has this one's."
    )
