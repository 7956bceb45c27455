"""The flat settings of one request, under the names that frameworks use, on top of Steering and Sampling.

The adapters take these names as constructor fields and as keywords of a single call; here they are put together.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypedDict

from sda_engine.alignment import Alignment, resolve_alignment
from sda_engine.config import Sampling, Steering
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.output import Output
from sda_engine.settings import unknown_name

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

_SETTINGS: Mapping[str, type] = MappingProxyType(
    {"steering": Steering, "sampling": Sampling, "output": Output, "settings": EngineSettings}
)

REQUEST_KEYWORDS = ("alignment", "steering", *_STEERING_FIELDS, *_SAMPLING_FIELDS, "timeout")
"""What can be set on a model of an adapter and, under the same name, on a single call."""


class RequestArguments(TypedDict):
    """Arguments of SteeringEngine.generate and its kin, after the messages."""

    alignment: Alignment | None
    steering: Steering
    sampling: Sampling
    output: Output
    timeout: float | None


@dataclass(frozen=True)
class RequestSettings:
    """Everything that the engine is asked for beside the messages.

    Attributes:
        alignment: what to steer by; None for a plain answer.
        steering: how strongly, and in which manner.
        sampling: how tokens are drawn, and when the answer ends.
        output: the form of the answer: tools and constraints.
        timeout: seconds for the whole request; None means no limit.
    """

    alignment: Alignment | None = None
    steering: Steering = field(default_factory=Steering)
    sampling: Sampling = field(default_factory=Sampling)
    output: Output = field(default_factory=Output)
    timeout: float | None = None

    def override(self, given: Mapping[str, object], *, owner: str = "The request") -> "RequestSettings":
        """These settings with those changed that are given by the names in REQUEST_KEYWORDS.

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
        steering = values.get("steering", self.steering)
        check_settings(steering=steering)
        assert isinstance(steering, Steering)
        return replace(
            self,
            alignment=resolve_alignment(given["alignment"]) if "alignment" in given else self.alignment,
            steering=steering.replace_given(**_only(values, _STEERING_FIELDS)),
            sampling=self.sampling.replace_given(
                **{_SAMPLING_FIELDS[name]: value for name, value in _only(values, _SAMPLING_FIELDS).items()}
            ),
            timeout=check_timeout(values["timeout"]) if "timeout" in values else self.timeout,
        )

    def arguments(self) -> RequestArguments:
        """The engine's arguments after the messages."""
        return {
            "alignment": self.alignment,
            "steering": self.steering,
            "sampling": self.sampling,
            "output": self.output,
            "timeout": self.timeout,
        }

    def describe(self) -> dict[str, object]:
        """All that can change an answer, as plain JSON without secrets: sampling under its flat names."""
        sampling = self.sampling.model_dump(mode="json")
        return {
            "alignment": self.alignment.model_dump(mode="json") if self.alignment is not None else None,
            "steering": self.steering.describe(),
            **{flat: sampling[name] for flat, name in _SAMPLING_FIELDS.items()},
            **({"output": self.output.model_dump(mode="json")} if self.output != Output() else {}),
        }


def check_settings(**settings: object) -> None:
    """Refuse anything that is not what its name says.

    Args:
        settings: `steering`, `sampling`, `output` and an engine's `settings` by name, as far as they are given.

    Raises:
        ConfigError: one of them is of another type.
    """
    for name, value in settings.items():
        expected = _SETTINGS[name]
        article = "an" if expected in (Output, EngineSettings) else "a"
        if not isinstance(value, expected):
            raise ConfigError(
                f"{name} cannot be {value!r}: it must be {article} {expected.__name__}, e.g. {expected.__name__}()."
            )


def check_timeout(timeout: object) -> float:
    """A timeout in seconds, if it is legal.

    Raises:
        ConfigError: it is not a finite number above 0.
    """
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout < math.inf:
        return float(timeout)
    raise ConfigError(f"timeout cannot be {timeout!r}: it must be a number of seconds above 0, or None.")


def _only(values: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name in names}
