"""The flat settings of one request, under the names that frameworks use, on top of Steering and Sampling.

The adapters take these names as constructor fields and as keywords of a single call; here they are put together.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from sda_engine.alignment import resolve_alignment
from sda_engine.config import Steering
from sda_engine.output import Output
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import check_timeout, check_type, unknown_name

_STEERING_FIELDS = ("evaluator", "gain", "amplification")
_SAMPLING_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "max_tokens": "max_new_tokens",
        "stop": "stop",
        "seed": "seed",
        "logprobs": "logprobs",
    }
)

REQUEST_KEYWORDS = ("alignment", "steering", *_STEERING_FIELDS, *_SAMPLING_FIELDS, "timeout")
"""What can be set on a model of an adapter and, under the same name, on a single call."""


def override_settings(
    settings: RequestSettings, given: Mapping[str, object], *, owner: str = "The request"
) -> RequestSettings:
    """Settings with those changed that are given by the names in REQUEST_KEYWORDS.

    None means "keep what there is", but for `alignment`, where it asks for a plain answer. A `steering` object
    replaces the whole of the one there is; evaluator, gain and amplification then change that.

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
    steering = check_type("steering", values.get("steering", settings.steering), Steering)
    return replace(
        settings,
        alignment=resolve_alignment(given["alignment"]) if "alignment" in given else settings.alignment,
        steering=steering.replace_given(**_only(values, _STEERING_FIELDS)),
        sampling=settings.sampling.replace_given(
            **{_SAMPLING_FIELDS[name]: value for name, value in _only(values, _SAMPLING_FIELDS).items()}
        ),
        timeout=check_timeout(values["timeout"]) if "timeout" in values else settings.timeout,
    )


def describe_settings(settings: RequestSettings) -> dict[str, object]:
    """All that can change an answer, as plain JSON without secrets: sampling under its flat names."""
    sampling = settings.sampling.model_dump(mode="json")
    form = settings.output.replace(strict=False)  # which refuses schemas, and changes no answer
    return {
        "alignment": settings.alignment.model_dump(mode="json") if settings.alignment is not None else None,
        "steering": settings.steering.describe(),
        **{flat: sampling[name] for flat, name in _SAMPLING_FIELDS.items()},
        **({"output": form.model_dump(mode="json", exclude={"strict"})} if form != Output() else {}),
    }


def _only(values: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name in names}
