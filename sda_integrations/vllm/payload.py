"""What travels with a group's request through vLLM: all that decides its tokens, as plain values.

vLLM hands `SamplingParams.extra_args` from its server to the engine's core and on to the workers, as msgpack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from sda_engine.config import Region, Sampling, Steering
from sda_engine.decoding import DecodeSettings
from sda_engine.errors import ConfigError
from sda_engine.steering import Budget

KEY = "sda"
"""In `SamplingParams.extra_args`."""

_STEERING = (  # fields of Steering that a step looks at
    "scope",
    "temperature_schedule",
    "temperature_sensitivity",
    "min_temperature",
    "critical_divergence",
    "critical_categories",
    "plausibility",
)
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "logprobs", "max_reasoning_tokens")


class GroupSettings(BaseModel):
    """How the tokens of one group are chosen; see `DecodeSettings`, `Steering`, `Sampling` and `Budget`.

    Attributes:
        rows: names of the rows, the base row first.
        budget: opening, reserve, quiet divergence, and whether the answer goes on; None for no budget.
        masked: whether vLLM masks tokens by a grammar.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: tuple[str, ...]
    weights: tuple[float, ...] = ()
    strength: float
    avoid_strength: float
    steering: dict[str, str | float | list[str] | tuple[str, ...]]
    sampling: dict[str, float | int | None]
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    response_template: dict[str, Any] | None = None
    answer_prefix: str = ""
    markers: tuple[int, ...] = ()
    thought_closing: tuple[int, ...] = ()
    must_call: bool = False
    text_region: Region = "text"
    budget: tuple[float, float, float, bool] | None = None
    masked: bool = False

    @classmethod
    def of(cls, settings: DecodeSettings, rows: tuple[str, ...], *, masked: bool) -> Self:
        """What settings say, as plain values.

        Raises:
            ConfigError: they hold what cannot be sent.
        """
        steering, sampling, budget = settings.steering, settings.sampling, settings.budget
        if not isinstance(steering.temperature_schedule, str):
            raise ConfigError(
                "A temperature schedule of your own cannot run inside vLLM: use one that has a name.",
                field="temperature_schedule",
            )
        return cls(
            rows=rows,
            weights=settings.weights,
            strength=settings.strength,
            avoid_strength=settings.avoid_strength,
            steering={name: value for name, value in steering.given().items() if name in _STEERING},
            sampling={name: value for name, value in sampling.given().items() if name in _SAMPLING},
            max_new_tokens=settings.max_new_tokens,
            eos_token_ids=tuple(sorted(settings.eos_token_ids)),
            response_template=None if settings.response_template is None else dict(settings.response_template),
            answer_prefix=settings.answer_prefix,
            markers=tuple(sorted(settings.markers)),
            thought_closing=settings.thought_closing,
            must_call=settings.must_call,
            text_region=settings.text_region,
            budget=None
            if budget is None
            else (budget.opening, budget.reserve, budget.quiet_divergence, budget.goes_on),
            masked=masked,
        )

    def step_steering(self) -> Steering:
        """What of Steering a step looks at.

        Raises:
            ConfigError: a value is out of range.
        """
        return Steering.of_values(self.steering)

    def step_sampling(self) -> Sampling:
        """How tokens are drawn.

        Raises:
            ConfigError: a value is out of range.
        """
        return Sampling.of_values(self.sampling)

    def decode_settings(self, critical_tokens: Tensor | None = None) -> DecodeSettings:
        """The same for a RowGroup, which ends at no stop string and keeps no grammar: others see to those.

        Raises:
            ConfigError: a value is out of range.
        """
        return DecodeSettings(
            rows=self.rows,
            weights=self.weights,
            strength=self.strength,
            avoid_strength=self.avoid_strength,
            steering=self.step_steering(),
            sampling=self.step_sampling(),
            stop=(),
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=frozenset(self.eos_token_ids),
            response_template=self.response_template,
            answer_prefix=self.answer_prefix,
            markers=frozenset(self.markers),
            thought_closing=self.thought_closing,
            must_call=self.must_call,
            text_region=self.text_region,
            critical_tokens=critical_tokens,
            budget=None if self.budget is None else Budget(*self.budget),
            masked=self.masked,
            traced=False,
        )

    @property
    def top(self) -> int | None:
        """How many of the most likely tokens are told; None for none."""
        top = self.sampling.get("logprobs")
        return None if top is None else int(top)


@dataclass(frozen=True)
class Membership:
    """Which row of which group a sequence of vLLM is.

    Attributes:
        group: the group's id.
        place: of the row, among those of the settings.
    """

    group: str
    place: int
    settings: GroupSettings

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self | None:
        """What the scheduler has written into the extra arguments of a sequence; None before it has.

        Raises:
            ValueError: the settings are none.
        """
        if "group" not in given:
            return None
        settings = _read(given["settings"])
        return cls(given["group"], settings.rows.index(given["row"]), settings)


def extra_args(settings: GroupSettings, prompts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The extra arguments of a group's request.

    Args:
        prompts: token ids of each row but the base one.
    """
    rows = {name: list(tokens) for name, tokens in prompts.items()}
    return {KEY: {"rows": rows, "settings": settings.model_dump(mode="python", exclude_defaults=True)}}


def check_extra_args(given: Mapping[str, Any] | None) -> None:
    """Refuse extra arguments that mean a group and are none.

    Raises:
        ValueError: what is wrong with them.
    """
    group = (given or {}).get(KEY)
    if group is None:
        return
    if not isinstance(group, Mapping) or not isinstance(group.get("rows"), Mapping):
        raise ValueError(f"{KEY} in extra_args must be what sda_integrations.vllm puts there.")
    settings = _read(group.get("settings"))
    named = [settings.rows[0], *group["rows"]]
    whole = all(
        isinstance(tokens, Sequence) and tokens and all(isinstance(one, int) and one >= 0 for one in tokens)
        for tokens in group["rows"].values()
    )
    if list(settings.rows) != named or not whole:
        raise ValueError(f"{KEY}.rows in extra_args must hold the token ids of every row but the base one, in order.")
    try:
        settings.decode_settings()
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _read(given: object) -> GroupSettings:
    return GroupSettings.model_validate(given)
