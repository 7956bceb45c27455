"""The model arguments of `sda/<model>` (`-M name=value`, or get_model's keywords) and those of a single call."""

from collections.abc import Mapping
from dataclasses import dataclass

from sda_engine import EngineSettings, Steering
from sda_engine.adapting import (
    REQUEST_KEYWORDS,
    STEERING_KEYWORDS,
    Engine,
    alignment_of_field,
    combine_settings,
    is_engine,
    refuse_loading,
)
from sda_engine.alignment import resolve_alignment
from sda_engine.choosing import Revision
from sda_engine.errors import ConfigError
from sda_engine.settings import shown, unknown_name
from sda_integrations.inspect.evaluators import EvaluatorReader

CALL_KEYWORDS = ("alignment", "steering", *STEERING_KEYWORDS, "min_p", "template_kwargs", "adapter")
"""What a model argument sets for all calls, and an entry of GenerateConfig.extra_body for one."""

_LOADING = ("revision", "device", "dtype", "device_map", "quantization_config", "adapters", "engine_settings")
_OF_THE_MODEL = ("engine", "evaluator_url", "trace")
MODEL_ARGUMENTS = (*CALL_KEYWORDS, *_LOADING, *_OF_THE_MODEL)
"""All model arguments."""

# Request keywords that Inspect has a field of its own for
_OTHER_NAMES = {"stop": "stop_seqs", "max_reasoning_tokens": "reasoning_tokens"}
_CONFIG_FIELDS = {name: _OTHER_NAMES.get(name, name) for name in REQUEST_KEYWORDS if name not in CALL_KEYWORDS}


@dataclass(frozen=True)
class ModelArguments:
    """What a model was made with, checked.

    Attributes:
        request: keywords of every request, for `combine_settings`.
        loading: arguments of SteeringEngine.load beside the model's name.
        settings: how the engine is to share the machine; None for the default.
        engine: an engine at hand, in place of one that is loaded.
        trace: whether an output's metadata holds a record of every token.
        evaluators: reads evaluators from texts.
    """

    request: Mapping[str, object]
    loading: Mapping[str, object]
    settings: EngineSettings | None
    engine: Engine | None
    trace: bool
    evaluators: EvaluatorReader


def read_arguments(model: str, given: Mapping[str, object], base_url: str | None = None) -> ModelArguments:
    """The model arguments that were given.

    Args:
        model: the model's name, behind "sda/".
        given: names and values, as Inspect's command line or get_model gives them.
        base_url: the address of a server that answers, which leaves nothing to load.

    Raises:
        ConfigError: a name is unknown, a value is out of range, or two of them exclude each other.
    """
    for name in given:
        if name not in MODEL_ARGUMENTS:
            raise _misplaced("model argument", name) or unknown_name(f"sda/{model}", name, MODEL_ARGUMENTS, "argument")
    url, trace = given.get("evaluator_url"), given.get("trace", True)
    if not isinstance(url, (str, type(None))):
        raise ConfigError(f"evaluator_url cannot be {shown(url)}: it must be the address of a server, or left out.")
    if not isinstance(trace, bool):
        raise ConfigError(f"trace cannot be {shown(trace)}: it must be true or false.")
    evaluators = EvaluatorReader(url)
    request = read_call(given, evaluators)
    request["alignment"] = resolve_alignment(request.get("alignment"))  # here, so that it warns once
    combine_settings(request, owner=f"sda/{model}")  # what is wrong shows here, not at the first sample
    loading = {name: given[name] for name in _LOADING if name != "engine_settings" and given.get(name) is not None}
    settings = _read_settings(given.get("engine_settings"))
    about_loading = [*loading, *(["engine_settings"] if settings else [])]
    if base_url is not None:
        refuse_loading(f"sda/{model}", base_url, [*about_loading, *(["engine"] if given.get("engine") else [])])
    engine = _read_engine(model, given.get("engine"), about_loading)
    return ModelArguments(request, loading, settings, engine, trace, evaluators)


def read_call(given: Mapping[str, object], evaluators: EvaluatorReader) -> dict[str, object]:
    """Those of CALL_KEYWORDS that are given, as the engine takes them.

    Args:
        given: names and values; other names are left alone.
        evaluators: makes evaluators from texts.

    Raises:
        ConfigError: a value cannot be read.
    """
    call = {name: given[name] for name in CALL_KEYWORDS if name in given}
    if "alignment" in call:
        call["alignment"] = alignment_of_field(call["alignment"])
    if "evaluator" in call:
        call["evaluator"] = evaluators.read("evaluator", call["evaluator"])
    if "steering" in call:
        call["steering"] = read_steering(call["steering"], evaluators)
    return call


def read_extra_body(extra: Mapping[str, object] | None, evaluators: EvaluatorReader) -> dict[str, object]:
    """What GenerateConfig.extra_body asks of one call.

    Raises:
        ConfigError: a name is none of CALL_KEYWORDS, or a value cannot be read.
    """
    extra = extra or {}
    for name in extra:
        if name not in CALL_KEYWORDS:
            raise _misplaced("entry of extra_body", name) or unknown_name("extra_body", name, CALL_KEYWORDS, "entry")
    return read_call(extra, evaluators)


def read_steering(value: object, evaluators: EvaluatorReader) -> Steering | None:
    """Steering from a mapping of its fields, evaluators as texts and revisions as mappings; one stays as it is.

    Raises:
        ConfigError: a field is unknown or out of range.
    """
    if value is None or isinstance(value, Steering):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"steering cannot be {shown(value)}: it must be a mapping of Steering's fields, or Steering.")
    fields = dict(value)
    for name in ("evaluator", "chooser"):
        if fields.get(name) is not None:
            fields[name] = evaluators.read(f"steering.{name}", fields[name])
    if isinstance(several := fields.get("revisions"), (list, tuple)):
        fields["revisions"] = [Revision.of_values(one) if isinstance(one, Mapping) else one for one in several]
    return Steering.of_values(fields)


def _misplaced(kind: str, name: str) -> ConfigError | None:
    """The error for a setting of requests that Inspect has a place of its own for, or that is no setting of a call."""
    if (field := _CONFIG_FIELDS.get(name)) is not None:
        option = field.replace("_", "-")
        return ConfigError(f"{name!r} is no {kind}: give it as GenerateConfig({field}=...), or --{option}.")
    if name == "max_new_tokens":
        return ConfigError(f"{name!r} is no {kind}: give it as GenerateConfig(max_tokens=...), or --max-tokens.")
    if name in MODEL_ARGUMENTS:
        return ConfigError(f"{name!r} is no {kind}, since it is about the model: give it as -M {name}=...")
    return None


def _read_settings(value: object) -> EngineSettings | None:
    if value is None or isinstance(value, EngineSettings):
        return value
    if isinstance(value, Mapping):
        return EngineSettings.of_values(value)
    raise ConfigError(
        f"engine_settings cannot be {shown(value)}: it must be a mapping of EngineSettings' fields, e.g. "
        f'{{"max_rows": 32}}, or EngineSettings.'
    )


def _read_engine(model: str, engine: object, loading: list[str]) -> Engine | None:
    if engine is None:
        return None
    if not is_engine(engine):
        raise ConfigError(
            f"engine cannot be {shown(engine)}: it must be an engine, e.g. SteeringEngine.load() or RemoteEngine(...)."
        )
    if loading:
        raise ConfigError(
            f"{loading[0]} says how to load a model, and engine={engine!r} is loaded already: give one of the two."
        )
    if model != engine.name:
        raise ConfigError(
            f"sda/{model} names another model than engine={engine!r}, and logs would be wrong: name it "
            f"sda/{engine.name}."
        )
    return engine
