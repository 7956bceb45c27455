"""What one call asks of the engine beside the messages: SDALLM's fields, overridden by its keywords."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypedDict

from sda_engine import Alignment, Sampling, Steering
from sda_engine.errors import ConfigError
from sda_integrations.llama_index.errors import unknown_name

_STEERING = ("evaluator", "gain", "amplification")
_SAMPLING: Mapping[str, str] = MappingProxyType(
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

KEYWORDS = ("alignment", "steering", *_STEERING, *_SAMPLING, "timeout")
"""What can be set on an SDALLM and, under the same name, for a single call."""

_FOR_REMOTE_MODELS = frozenset({"extra_headers"})
"""HTTP settings that DocumentContextExtractor sends with every call; they mean nothing to a local model."""


class RequestArguments(TypedDict):
    """Arguments of SteeringEngine.generate and its kin."""

    alignment: Alignment | str | None
    steering: Steering
    sampling: Sampling
    timeout: float | None


@dataclass(frozen=True)
class RequestSettings:
    """How to answer.

    Attributes:
        alignment: what to steer towards; None for a plain answer.
        steering: how strongly, and in which manner.
        sampling: how tokens are drawn, and when the answer ends.
        timeout: seconds for the whole request; None means no limit.
    """

    alignment: Alignment | str | None = None
    steering: Steering = field(default_factory=Steering)
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float | None = None

    def override(self, given: Mapping[str, object]) -> "RequestSettings":
        """These settings with those of KEYWORDS changed that are given.

        None means "keep what there is", but for `alignment`, where it asks for a plain answer. A `steering`
        object replaces all of the one there is; evaluator, gain and amplification then change that.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        for name in given:
            if name not in KEYWORDS and name not in _FOR_REMOTE_MODELS:
                raise unknown_name(name, KEYWORDS, "call keyword")
        values = {name: value for name, value in given.items() if value is not None}
        sampling = {theirs: values[ours] for ours, theirs in _SAMPLING.items() if ours in values}
        steering = {name: values[name] for name in _STEERING if name in values}
        return replace(
            self,
            alignment=_alignment(given["alignment"]) if "alignment" in given else self.alignment,
            steering=_steering(values.get("steering", self.steering)).replace_given(**steering),
            sampling=self.sampling.replace_given(**sampling),
            timeout=_timeout(values["timeout"]) if "timeout" in values else self.timeout,
        )

    def arguments(self) -> RequestArguments:
        """The engine's arguments after the messages."""
        return {
            "alignment": self.alignment,
            "steering": self.steering,
            "sampling": self.sampling,
            "timeout": self.timeout,
        }

    def describe(self) -> dict[str, object]:
        """All that can change an answer, as plain JSON without secrets."""
        alignment = self.alignment
        return {
            "alignment": alignment.model_dump(mode="json") if isinstance(alignment, Alignment) else alignment,
            "steering": self.steering.describe(),
            "sampling": self.sampling.model_dump(mode="json"),
        }


def _alignment(alignment: object) -> Alignment | str | None:
    if isinstance(alignment, str):
        Alignment(instruction=alignment)  # refuses a blank text
    elif alignment is not None and not isinstance(alignment, Alignment):
        raise ConfigError(
            f"alignment cannot be {alignment!r}: it must be a preset's name, an instruction as text, an "
            f"Alignment, or None for a plain answer."
        )
    return alignment


def _steering(steering: object) -> Steering:
    if not isinstance(steering, Steering):
        raise ConfigError(f"steering cannot be {steering!r}: it must be a Steering, e.g. Steering(gain=3.0).")
    return steering


def _timeout(timeout: object) -> float:
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < math.inf:
        raise ConfigError(f"timeout cannot be {timeout!r}: it must be a number of seconds above 0, or None.")
    return float(timeout)
