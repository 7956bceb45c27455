"""EvaluatorsByName: whom clients may ask to rate base responses, and what replies tell of them."""

import re
from collections.abc import Iterator, Mapping

from sda_engine.cli.evaluator_specs import make_evaluator
from sda_engine.errors import ConfigError
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    Evaluator,
    FixedScore,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)
from sda_engine.evaluators.breaker import CircuitBreaker
from sda_engine.evaluators.protocol import evaluator_name
from sda_engine.settings import shown
from sda_integrations.server.settings import FREE_EVALUATORS, EvaluatorLike, EvaluatorSettings, ServerSettings

_FREE_FORMS = "contrastive, contrastive:sharpness=NUMBER, self-rating, uncertainty, fixed:SCORE"
_FREE_TYPES = (ContrastiveEvaluator, SelfRatingEvaluator, UncertaintyEvaluator, FixedScore)
_PARAMETERS = re.compile(r"[:(].*", re.DOTALL)


class EvaluatorsByName:
    """The evaluators that requests may name: those of the operator, and those that need nothing but the model.

    A client cannot name a judge or a reward model of its own: the operator's key would pay for the one, and the other
    would be downloaded.

    Args:
        named: the operator's, by the names that clients call them by.

    Raises:
        ConfigError: a spec means no evaluator.
    """

    def __init__(self, named: Mapping[str, EvaluatorLike]) -> None:
        self._named = {name: _made(name, like) for name, like in named.items()}
        self._names: dict[str, str] = {}  # an evaluator's own name -> the server's
        for name, evaluator in self._named.items():
            self._names.setdefault(evaluator_name(evaluator), name)

    @classmethod
    def of(cls, settings: ServerSettings) -> "EvaluatorsByName":
        """Those that a server's settings name, and those that its steering holds as objects.

        A default that is a spec is known to clients by that spec, one that is an object as "default-evaluator" or
        "default-chooser".

        Raises:
            ConfigError: a spec means no evaluator.
        """
        named = dict(settings.evaluators)
        for name in (settings.evaluator, settings.chooser):
            if name is not None and not _is_free(name):
                named.setdefault(name, name)
        for role, held in (("evaluator", settings.steering.evaluator), ("chooser", settings.steering.chooser)):
            if held is not None and not isinstance(held, _FREE_TYPES):
                named.setdefault(f"default-{role}", held)
        return cls(named)

    def get(self, name: str) -> Evaluator:
        """The evaluator of a name.

        Raises:
            ConfigError: there is none of that name that a client may ask for.
        """
        if name in self._named:
            return self._named[name]
        if _is_free(name):
            try:
                return make_evaluator(name)
            except ConfigError as error:
                raise self._unknown(name) from error
        raise self._unknown(name)

    def public_name(self, evaluator: str) -> str:
        """What replies call an evaluator, given its own name: that of one that asks a server may tell an address."""
        if evaluator in self._names and not isinstance(self._named[self._names[evaluator]], _FREE_TYPES):
            return self._names[evaluator]
        return evaluator if evaluator.startswith(_FREE_NAMES) else "evaluator"

    def kind(self, name: str) -> str:
        """What a name is counted under: itself, or for one with parameters of the client's own what precedes them.

        Args:
            name: as requests name an evaluator, or as replies do.
        """
        return name if name in self._named else _PARAMETERS.sub("", name)

    def breakers(self) -> Iterator[tuple[str, CircuitBreaker]]:
        """The operator's evaluators that are left alone where they keep failing, by name."""
        for name, evaluator in self._named.items():
            breaker = getattr(evaluator, "breaker", None)
            if isinstance(breaker, CircuitBreaker):
                yield name, breaker

    def _unknown(self, name: str) -> ConfigError:
        own = f" {', '.join(self._named)}," if self._named else ""
        return ConfigError(f"evaluator cannot be {shown(name)}: this server knows{own} {_FREE_FORMS}.")


_FREE_NAMES = tuple(f"{kind.__name__}(" for kind in _FREE_TYPES)


def _is_free(name: str) -> bool:
    return name.partition(":")[0] in FREE_EVALUATORS


def _made(name: str, like: EvaluatorLike) -> Evaluator:
    if isinstance(like, str):
        return make_evaluator(like)
    if not isinstance(like, EvaluatorSettings):
        return like
    try:
        return _from_settings(like)
    except ConfigError as error:
        raise ConfigError(f"The evaluator {name!r}: {error}") from error


def _from_settings(settings: EvaluatorSettings) -> Evaluator:
    if settings.api_key is None:
        return make_evaluator(settings.spec, settings.url)
    kind, _, model = settings.spec.partition(":")
    if kind != "openai" or not model:
        raise ConfigError(f"api_key is for openai:MODEL, and the spec is {settings.spec!r}: leave one of them out.")
    from sda_engine.evaluators import OpenAIEvaluator  # here, since it imports the SDK, which takes a second

    return OpenAIEvaluator(model, base_url=settings.url, api_key=settings.api_key)
