"""ServerEvaluator: an evaluator that only the server has, by the name that it knows it by."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from sda_engine.errors import ConfigError
from sda_engine.evaluators.contrastive import ContrastiveEvaluator
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator, evaluator_name
from sda_engine.evaluators.self_rating import SelfRatingEvaluator
from sda_engine.evaluators.uncertainty import UncertaintyEvaluator

_SPECS: Mapping[str, str] = MappingProxyType(
    {SelfRatingEvaluator().name: "self-rating", UncertaintyEvaluator().name: "uncertainty"}
)


class ServerEvaluator:
    """Stands for an evaluator of the server's, e.g. RemoteEngine's Steering(evaluator=ServerEvaluator("judge")).

    Args:
        name: what the server calls it: a name of its configuration, or a specification such as "contrastive".

    Raises:
        ConfigError: it is asked to rate here, where there is no such evaluator.
    """

    needs_response = True
    needs_model = True  # it rates where that is

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"ServerEvaluator.name cannot be {name!r}: it must be a name that the server knows.")
        self.name = name

    def evaluate(self, request: EvaluationRequest) -> NoReturn:
        """Refuse: the server rates."""
        raise ConfigError(
            f"The evaluator {self.name!r} is the server's: it rates requests of a RemoteEngine, and none of an engine "
            f"in this process."
        )

    async def aevaluate(self, request: EvaluationRequest) -> NoReturn:
        """Refuse: the server rates."""
        self.evaluate(request)

    def __repr__(self) -> str:
        return f"ServerEvaluator({self.name!r})"


def known_name(evaluator: Evaluator, field: str = "evaluator") -> str:
    """The name by which any server knows an evaluator.

    Args:
        field: the setting that it is given as, for errors.

    Raises:
        ConfigError: there is none, since it lives in this process.
    """
    if isinstance(evaluator, ServerEvaluator):
        return evaluator.name
    if type(evaluator) is FixedScore:
        return f"fixed:{evaluator.value!r}"
    if type(evaluator) is ContrastiveEvaluator:
        return f"contrastive:sharpness={evaluator.sharpness!r}"
    if isinstance(evaluator, (SelfRatingEvaluator, UncertaintyEvaluator)) and evaluator.name in _SPECS:
        return _SPECS[evaluator.name]
    raise ConfigError(
        f"The evaluator {evaluator_name(evaluator)} lives in this process, and the server cannot ask it. Give the "
        f"server one in its configuration, and name it: {field}=ServerEvaluator('judge').",
        field=field,
    )
