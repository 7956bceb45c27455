"""The evaluators that the commands know by name."""

import importlib
from collections.abc import Callable, Mapping, Sequence

from sda_engine.errors import ConfigError
from sda_engine.evaluation import NamedEvaluator
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    Evaluator,
    FixedScore,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)

DEFAULT_SPECS = ("contrastive", "self-rating", "uncertainty")  # they need nothing but the model
SERVER_CONCURRENCY = 8  # calls to a server at a time

_FORMS = "contrastive, contrastive:sharpness=NUMBER, self-rating, uncertainty, fixed:SCORE, openai:MODEL, reward:MODEL"


def make_evaluators(specs: Sequence[str], url: str | None = None) -> list[NamedEvaluator]:
    """The evaluators to be checked that texts mean, each once; those of DEFAULT_SPECS for none.

    Raises:
        ConfigError: a text means none or is given twice, or a URL is given to evaluators that have no use for it.
    """
    specs = specs or DEFAULT_SPECS
    check_url(url, specs)
    if repeated := [spec for spec in specs if specs.count(spec) > 1]:
        raise ConfigError(f"--evaluator {repeated[0]!r} is given twice: name each evaluator once.")
    return [_make_named(spec, url if _asks_a_server(spec) else None) for spec in specs]


def make_evaluator(spec: str, url: str | None = None) -> Evaluator:
    """The evaluator that a text such as "contrastive", "fixed:30" or "openai:gpt-4.1" means.

    Args:
        spec: the text.
        url: address of the OpenAI-compatible server of "openai:MODEL"; None means OpenAI itself.

    Raises:
        ConfigError: the text means none, or a URL is given to an evaluator that has no use for it.
    """
    check_url(url, [spec])
    kind, colon, argument = spec.partition(":")
    try:
        if kind == "openai" and argument:
            return _made_when_asked_for("OpenAIEvaluator")(argument, base_url=url)
        if argument and kind in _WITH_ARGUMENT:
            return _WITH_ARGUMENT[kind](argument)
        if not colon and kind in _PLAIN:
            return _PLAIN[kind]()
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"--evaluator {spec!r}: {error}") from error
    raise ConfigError(f"--evaluator cannot be {spec!r}: it must be one of {_FORMS}; e.g. openai:gpt-4.1.")


def check_url(url: str | None, specs: Sequence[str]) -> None:
    """Refuse the address of a judge's server where none of the evaluators asks one.

    Raises:
        ConfigError: there is such an address.
    """
    if url is not None and not any(map(_asks_a_server, specs)):
        raise ConfigError("--evaluator-url needs --evaluator openai:MODEL.")


def _make_named(spec: str, url: str | None) -> NamedEvaluator:
    return NamedEvaluator(spec, make_evaluator(spec, url), SERVER_CONCURRENCY if _asks_a_server(spec) else 1)


def _asks_a_server(spec: str) -> bool:
    return spec.startswith("openai:")


def _made_when_asked_for(name: str) -> Callable[..., Evaluator]:
    """A class of sda_engine.evaluators by name, imported when it is called: those that import what takes seconds."""

    def make(*arguments: object, **settings: object) -> Evaluator:
        evaluator: Evaluator = getattr(importlib.import_module("sda_engine.evaluators"), name)(*arguments, **settings)
        return evaluator

    return make


def _contrastive(argument: str) -> Evaluator:
    name, _, value = argument.partition("=")
    if name != "sharpness" or not value:
        raise ConfigError(f"{argument!r} is no parameter: write contrastive:sharpness=NUMBER, e.g. sharpness=4.")
    return ContrastiveEvaluator(float(value))


_PLAIN: Mapping[str, Callable[[], Evaluator]] = {
    "contrastive": ContrastiveEvaluator,
    "fixed": FixedScore,
    "self-rating": SelfRatingEvaluator,
    "uncertainty": UncertaintyEvaluator,
}
_WITH_ARGUMENT: Mapping[str, Callable[[str], Evaluator]] = {
    "contrastive": _contrastive,
    "fixed": lambda score: FixedScore(float(score)),
    "reward": _made_when_asked_for("RewardModelEvaluator"),
}
