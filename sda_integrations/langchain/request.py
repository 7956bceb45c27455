"""What one call asks of the engine: the chat model's fields, overridden by the call's keywords."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sda_engine import Alignment, Sampling, Steering
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ConfigError
from sda_integrations.langchain.errors import unknown_name

Answer = TypeVar("Answer")

_STEERING_FIELDS = {"evaluator": "evaluator", "gain": "gain", "amplification": "amplification"}
_SAMPLING_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "max_tokens": "max_new_tokens",
    "stop": "stop",
    "seed": "seed",
}

REQUEST_KEYWORDS = (
    "alignment",
    "steering",
    *_STEERING_FIELDS,
    *_SAMPLING_FIELDS,
    "logprobs",
    "top_logprobs",
    "timeout",
)
"""What can be set on a ChatSDA and, under the same name, on a single call."""


@dataclass(frozen=True)
class RequestSettings:
    """Everything that the engine is asked for beside the messages.

    Attributes:
        alignment: what to steer by; None for a plain answer.
        steering: how strongly, and in which manner.
        sampling: how tokens are drawn, and when the answer ends.
        timeout: seconds that the whole request may take; None means no limit.
    """

    alignment: Alignment | None = None
    steering: Steering = field(default_factory=Steering)
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float | None = None

    def override(self, keywords: Mapping[str, object]) -> "RequestSettings":
        """These settings with some changed, by the names in REQUEST_KEYWORDS.

        None means "keep what there is", but for `alignment`, where None means a plain answer. A `steering`
        object replaces the one there is; single keywords then change that.

        Raises:
            ConfigError: a keyword is unknown, or a value is out of range.
        """
        for name in keywords:
            if name not in REQUEST_KEYWORDS:
                raise unknown_name(name, REQUEST_KEYWORDS, "call keyword")
        given = {name: value for name, value in keywords.items() if value is not None}
        steering = given.get("steering", self.steering)
        if not isinstance(steering, Steering):
            raise ConfigError(
                f"steering cannot be {steering!r}: it must be a Steering, e.g. Steering(gain=3.0)."
            )
        return replace(
            self,
            alignment=_resolved(keywords["alignment"]) if "alignment" in keywords else self.alignment,
            steering=steering.replace_given(**_renamed(given, _STEERING_FIELDS)),
            sampling=_with_logprobs(self.sampling.replace_given(**_renamed(given, _SAMPLING_FIELDS)), given),
            timeout=_checked_timeout(given["timeout"]) if "timeout" in given else self.timeout,
        )

    def ask(self, method: Callable[..., Answer], messages: Sequence[Mapping[str, object]]) -> Answer:
        """Call `generate`, `stream`, `agenerate` or `astream` of an engine with these settings."""
        return method(
            messages, self.alignment, steering=self.steering, sampling=self.sampling, timeout=self.timeout
        )

    def describe(self) -> dict[str, object]:
        """All that can change an answer, as plain JSON, with sampling under LangChain's names."""
        sampling = dict(self.sampling)
        return {
            "alignment": self.alignment.model_dump(mode="json") if self.alignment is not None else None,
            "steering": self.steering.describe(),
            **{name: sampling[renamed] for name, renamed in _SAMPLING_FIELDS.items()},
            "stop": list(self.sampling.stop),
            "logprobs": self.sampling.logprobs,
        }


def _renamed(given: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    return {renamed: given[name] for name, renamed in names.items() if name in given}


def _resolved(alignment: object) -> Alignment | None:
    return resolve_alignment(alignment)  # type: ignore[arg-type]  # it refuses what is of another type


def _with_logprobs(sampling: Sampling, given: Mapping[str, object]) -> Sampling:
    """LangChain's pair, `logprobs` (whether) and `top_logprobs` (how many), as one number."""
    wanted, top = given.get("logprobs"), given.get("top_logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise ConfigError(
            f"logprobs cannot be {wanted!r}: it must be True or False. top_logprobs says how many."
        )
    if wanted is False:
        if top is not None:
            raise ConfigError(f"top_logprobs={top!r} needs log-probabilities: leave out logprobs=False.")
        return sampling.replace(logprobs=None)
    if top is not None:
        return sampling.replace(logprobs=top)
    return sampling.replace(logprobs=0) if wanted and sampling.logprobs is None else sampling


def _checked_timeout(timeout: object) -> float:
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout < math.inf:
        return float(timeout)
    raise ConfigError(f"timeout cannot be {timeout!r}: it must be a number of seconds above 0, or None.")
