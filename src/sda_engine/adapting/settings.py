"""The flat settings of one request, under the names that frameworks use, on top of Steering and Sampling.

The adapters take these names as constructor fields and as keywords of a single call; here they are put together.
"""

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import replace
from types import MappingProxyType

from sda_engine.alignment import Alignment, AlignmentLike, resolve_alignment
from sda_engine.config import Steering
from sda_engine.models import check_template_values
from sda_engine.output import Output
from sda_engine.request_settings import RequestSettings, check_adapter_name
from sda_engine.settings import check_timeout, check_type, unknown_name

STEERING_KEYWORDS = ("policy", "evaluator", "gain", "amplification")
"""Those of REQUEST_KEYWORDS that change Steering; without an alignment they have no effect."""

_SAMPLING_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "max_tokens": "max_new_tokens",
        "max_reasoning_tokens": "max_reasoning_tokens",
        "stop": "stop",
        "seed": "seed",
        "logprobs": "logprobs",
    }
)

_OTHERS = ("timeout", "template_kwargs", "adapter")
REQUEST_KEYWORDS = ("alignment", "steering", *STEERING_KEYWORDS, *_SAMPLING_FIELDS, *_OTHERS)
"""What can be set on a model of an adapter and, under the same name, on a single call."""


def combine_settings(*layers: Mapping[str, object], owner: str) -> RequestSettings:
    """The settings of one request, from layers of keywords: each comes before those to its left.

    What an outer layer says of steering is left out where the alignment of an inner one leaves it no effect, since it
    is meant for other calls: a model with a gain may be asked for a plain answer.

    Args:
        layers: names and values, as for `override_settings`; the first one is the model's own.
        owner: whose keywords they are, for errors.

    Raises:
        ConfigError: a name is unknown, or a value is out of range.
    """
    settings = RequestSettings()
    for given in layers:
        settings = override_settings(settings, given, owner=owner)
    chosen = max((place for place, given in enumerate(layers) if "alignment" in given), default=0)
    if chosen == 0:
        return settings
    meant = {name for given in layers[chosen:] for name in _steering_names(given)}
    idle = [name for name in settings.steering.idle_for(settings.alignment) if name not in meant]
    return replace(settings, steering=settings.steering.without(idle))


def override_settings(
    settings: RequestSettings, given: Mapping[str, object], *, owner: str = "The request"
) -> RequestSettings:
    """Settings with those changed that are given by the names in REQUEST_KEYWORDS.

    None means "keep what there is", but for `alignment`, where it asks for a plain answer. A `steering` object
    replaces the whole of the one there is; policy, evaluator, gain and amplification then change that. An evaluator
    and a fixed amplification exclude each other: of an earlier and a later one the later counts, and both at once are
    refused. `template_kwargs` change the variables that they name.

    Args:
        given: names and values.
        owner: whose keywords they are, for errors.

    Raises:
        ConfigError: a name is unknown, or a value is out of range.
    """
    for name in given:
        if name not in REQUEST_KEYWORDS:
            raise unknown_name(owner, name, REQUEST_KEYWORDS, "call keyword")
    values = {name: value for name, value in given.items() if value is not None}
    return replace(
        settings,
        alignment=resolve_alignment(given["alignment"]) if "alignment" in given else settings.alignment,
        steering=_override_steering(settings.steering, values),
        sampling=settings.sampling.replace_given(
            **{_SAMPLING_FIELDS[name]: value for name, value in _only(values, _SAMPLING_FIELDS).items()}
        ),
        timeout=check_timeout(values["timeout"]) if "timeout" in values else settings.timeout,
        template_kwargs={**settings.template_kwargs, **check_template_values(values.get("template_kwargs", {}))},
        adapter=check_adapter_name(values.get("adapter", settings.adapter)),
    )


def _override_steering(steering: Steering, values: Mapping[str, object]) -> Steering:
    flat = _only(values, STEERING_KEYWORDS)
    if "steering" not in values:
        return steering.replace_given(**flat)
    given = check_type("steering", values["steering"], Steering)
    return Steering.of_values({**given.given(), **flat}) if flat else given


def _steering_names(given: Mapping[str, object]) -> set[str]:
    """Which settings of Steering keywords give, flat or in an object."""
    steering = given.get("steering")
    in_object = steering.model_fields_set if isinstance(steering, Steering) else ()
    return {*in_object, *(name for name in STEERING_KEYWORDS if given.get(name) is not None)}


def describe_settings(settings: RequestSettings) -> dict[str, object]:
    """All that can change an answer, as plain JSON without secrets: sampling under its flat names."""
    sampling = settings.sampling.model_dump(mode="json")
    form = settings.output.replace(strict=False)  # which refuses schemas, and changes no answer
    return {
        "alignment": settings.alignment.model_dump(mode="json") if settings.alignment is not None else None,
        "steering": settings.steering.describe(),
        **{flat: sampling[name] for flat, name in _SAMPLING_FIELDS.items()},
        **({"output": form.model_dump(mode="json", exclude={"strict"})} if form != Output() else {}),
        **({"template_kwargs": dict(settings.template_kwargs)} if settings.template_kwargs else {}),
        **({"adapter": settings.adapter} if settings.adapter is not None else {}),
    }


def resolve_once(
    given: AlignmentLike | None, known: tuple[object, Alignment | None]
) -> tuple[object, Alignment | None]:
    """An alignment as it was given, and what it means: what is known of it already, so that it is warned of once.

    Raises:
        ConfigError: it is no alignment.
    """
    return known if known[0] == given else (copy(given), resolve_alignment(given))  # the caller may change a dict


def alignment_of_field(value: object) -> object:
    """What an adapter's field holds for a value: alignments with weights are combined, and what `model_dump` wrote down
    of an Alignment, which holds no number, is one again. So the field's own dump is plain data that gives the same.

    Raises:
        ConfigError: what is combined does not go together, or what is written down is no Alignment.
    """
    if isinstance(value, Mapping) and value and not any(isinstance(one, (int, float)) for one in value.values()):
        return Alignment.of_values(value)
    return resolve_alignment(value) if isinstance(value, (Mapping, list, tuple)) else value


def _only(values: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name in names}
