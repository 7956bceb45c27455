"""The evaluators that `sda evaluators check` knows by name."""

import importlib
from collections.abc import Callable, Mapping

from sda_engine.errors import ConfigError
from sda_engine.evaluation import NamedEvaluator
from sda_engine.evaluators import ContrastiveEvaluator, Evaluator, FixedScore

DEFAULT_SPECS = ("contrastive", "self-rating", "uncertainty")  # they need nothing but the model
SERVER_CONCURRENCY = 8  # calls to a server at a time

_FORMS = "contrastive, contrastive:sharpness=NUMBER, self-rating, uncertainty, fixed:SCORE, openai:MODEL, reward:MODEL"


def make_evaluators(specs: list[str], base_url: str | None = None) -> list[NamedEvaluator]:
    """The evaluators that texts such as "contrastive" or "openai:gpt-4.1" mean.

    Args:
        specs: the texts; none of them means those of DEFAULT_SPECS.
        base_url: address of the OpenAI-compatible server of "openai:MODEL"; None means OpenAI itself.

    Raises:
        ConfigError: a text means none or is given twice, or a URL is given to evaluators that have no use for it.
    """
    specs = specs or list(DEFAULT_SPECS)
    if base_url is not None and not any(spec.startswith("openai:") for spec in specs):
        raise ConfigError("--base-url needs --evaluator openai:MODEL.")
    if repeated := [spec for spec in specs if specs.count(spec) > 1]:
        raise ConfigError(f"--evaluator {repeated[0]!r} is given twice: name each evaluator once.")
    return [_make_evaluator(spec, base_url) for spec in specs]


def _make_evaluator(spec: str, base_url: str | None) -> NamedEvaluator:
    kind, colon, argument = spec.partition(":")
    if kind == "openai" and argument:
        from sda_engine.evaluators import OpenAIEvaluator  # here, since it imports the OpenAI SDK

        return NamedEvaluator(spec, OpenAIEvaluator(argument, base_url=base_url), concurrency=SERVER_CONCURRENCY)
    try:
        if argument and kind in _WITH_ARGUMENT:
            return NamedEvaluator(spec, _WITH_ARGUMENT[kind](argument))
        if not colon and kind in _PLAIN:
            return NamedEvaluator(spec, _PLAIN[kind]())
    except ValueError as error:  # ConfigError is one too
        raise ConfigError(f"--evaluator {spec!r}: {error}") from error
    raise ConfigError(f"--evaluator cannot be {spec!r}: it must be one of {_FORMS}; e.g. openai:gpt-4.1.")


def _made_when_asked_for(name: str) -> Callable[..., Evaluator]:
    """A class of sda_engine.evaluators by name, imported when it is called: some import what takes seconds."""

    def make(*arguments: str) -> Evaluator:
        evaluator: Evaluator = getattr(importlib.import_module("sda_engine.evaluators"), name)(*arguments)
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
    "self-rating": _made_when_asked_for("SelfRatingEvaluator"),
    "uncertainty": _made_when_asked_for("UncertaintyEvaluator"),
}
_WITH_ARGUMENT: Mapping[str, Callable[[str], Evaluator]] = {
    "contrastive": _contrastive,
    "fixed": lambda score: FixedScore(float(score)),
    "reward": _made_when_asked_for("RewardModelEvaluator"),
}
