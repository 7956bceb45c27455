"""RequestSettings: all that one request asks for beside its messages, as one object that is checked once."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypedDict

from sda_engine.alignment import Alignment, AlignmentLike, resolve_alignment
from sda_engine.config import NoEffectWarning, Policy, Sampling, Steering
from sda_engine.errors import ConfigError
from sda_engine.models import TemplateValue, check_template_values
from sda_engine.output import Output
from sda_engine.settings import check_timeout, check_type, shown, unknown_name
from sda_engine.user_warnings import warn_user

_LONGEST_SALT = 256  # characters


class RequestOptions(TypedDict, total=False):
    """What the methods of SteeringEngine take by keyword.

    Attributes:
        steering: how strongly to steer, and who rates.
        sampling: how to sample, and when to stop.
        output: the form of the answer: tools that it may or must call, a JSON schema or grammar that it must fit.
        timeout: seconds from the call on, waiting and rating included; None waits for ever. An evaluator at work is
            not interrupted, since it has a limit of its own: the request ends after it.
        template_kwargs: values for variables that the model's chat template leaves open, e.g.
            {"enable_thinking": False}.
        adapter: the PEFT adapter that all rows run under; None for the model as it was given.
        cache_salt: a text of 1 to 256 characters that those share who may find what the others' requests have left in
            caches, one for each tenant, say. Requests of different salts share nothing there, and those without one
            share with each other alone.
    """

    steering: Steering
    sampling: Sampling
    output: Output
    timeout: float | None
    template_kwargs: Mapping[str, TemplateValue]
    adapter: str | None
    cache_salt: str | None


class RequestArguments(RequestOptions):
    """All arguments of those methods after the messages."""

    alignment: Alignment | None


@dataclass(frozen=True)
class RequestSettings:
    """Everything that the engine is asked for beside the messages.

    Attributes:
        alignment: what to steer by; None for a plain answer.
        steering: how strongly, and in which manner.
        sampling: how tokens are drawn, and when the answer ends.
        output: the form of the answer: tools and constraints.
        timeout: seconds from the call on; None means no limit.
        template_kwargs: values for variables of the model's chat template. Which it has, only the model can tell.
        adapter: the PEFT adapter that all rows run under. Which there are, only the model can tell.
        whole: whether the answer is wanted as a whole, and nobody sees it growing.
        cache_salt: what those share who may find each other's prompts in caches; a secret.

    Raises:
        ConfigError: one of them is of another type, the timeout is not above 0, a value is not plain, or the salt is
            empty or too long.
    """

    alignment: Alignment | None = None
    steering: Steering = field(default_factory=Steering)
    sampling: Sampling = field(default_factory=Sampling)
    output: Output = field(default_factory=Output)
    timeout: float | None = None
    template_kwargs: Mapping[str, TemplateValue] = field(default_factory=dict)
    adapter: str | None = None
    whole: bool = False
    cache_salt: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_type("steering", self.steering, Steering)
        check_type("sampling", self.sampling, Sampling)
        check_type("output", self.output, Output)
        if self.timeout is not None:
            check_timeout(self.timeout)
        check_adapter_name(self.adapter)
        hash_salt(self.cache_salt)
        object.__setattr__(self, "template_kwargs", check_template_values(self.template_kwargs))

    @classmethod
    def of(cls, alignment: AlignmentLike | None, options: RequestOptions, *, whole: bool) -> Self:
        """The settings that the arguments of an engine's method mean.

        Args:
            whole: whether nobody sees the answer growing.

        Warns with NoEffectWarning where steering was given a setting that changes nothing with this alignment.

        Raises:
            ConfigError: an option is unknown, of another type or out of range.
        """
        for name in options:
            if name not in RequestOptions.__annotations__:
                raise unknown_name("The request", name, RequestOptions.__annotations__, "option")
        settings = cls(resolve_alignment(alignment), **options, whole=whole)
        settings._warn_of_idle_steering()
        return settings

    def _warn_of_idle_steering(self) -> None:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.steering.idle_for(self.alignment).items():
            by_reason.setdefault(reason, []).append(name)
        if by_reason:
            idle = "; ".join(f"{', '.join(names)} (since {reason})" for reason, names in by_reason.items())
            warn_user(
                f"What Steering was given changes nothing in this answer: {idle}. Leave it out, or give the alignment "
                f"or evaluator that it is meant for.",
                NoEffectWarning,
            )

    @property
    def policy(self) -> Policy:
        """The policy that answers; "paper" for a plain answer, which is steered by none."""
        return "paper" if self.alignment is None else self.steering.policy_for(whole=self.whole)

    @property
    def salt(self) -> bytes | None:
        """What caches tell its requests by, see `hash_salt`."""
        return hash_salt(self.cache_salt)

    def deadline(self) -> float | None:
        """When the timeout passes if the request starts now, in seconds of time.monotonic(); None for no limit."""
        return None if self.timeout is None else time.monotonic() + self.timeout

    def arguments(self) -> RequestArguments:
        """The arguments of an engine's method after the messages."""
        return {
            "alignment": self.alignment,
            "steering": self.steering,
            "sampling": self.sampling,
            "output": self.output,
            "timeout": self.timeout,
            "template_kwargs": self.template_kwargs,
            "adapter": self.adapter,
            "cache_salt": self.cache_salt,
        }


def check_adapter_name(adapter: object) -> str | None:
    """The name of an adapter, or None, if it can be one.

    Raises:
        ConfigError: it is neither a text nor None.
    """
    if adapter is None or isinstance(adapter, str):
        return adapter
    raise ConfigError(f"adapter cannot be {shown(adapter)}: it must be the name of an adapter of the model, or None.")


def hash_salt(cache_salt: str | None) -> bytes | None:
    """SHA-256 of a cache salt, by which caches tell requests apart without holding the salt; None for None.

    Raises:
        ConfigError: it is neither None nor a text of 1 to 256 characters. The error does not show it.
    """
    if cache_salt is None:
        return None
    if not isinstance(cache_salt, str):
        given = f"an object of type {type(cache_salt).__name__}"
    elif not 1 <= len(cache_salt) <= _LONGEST_SALT:
        given = f"a text of {len(cache_salt)} characters"
    else:
        return hashlib.sha256(cache_salt.encode("utf-8", "surrogatepass")).digest()
    raise ConfigError(
        f"cache_salt cannot be {given}: it must be a text of 1 to {_LONGEST_SALT} characters, or None. Take a hash of "
        f"what is longer."
    )
