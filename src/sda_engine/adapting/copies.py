"""Copies of an adapter's model that are written down: what they keep of an engine, and how objects come back."""

import ast
import json
from collections.abc import Callable, Mapping

from sda_engine.adapting.engine_protocol import Engine
from sda_engine.config import Steering
from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    EnsembleEvaluator,
    Evaluator,
    FixedScore,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)

# Their names are how to make them again
_BY_NAME: Mapping[str, Callable[..., Evaluator]] = {
    made.__name__: made
    for made in (ContrastiveEvaluator, EnsembleEvaluator, FixedScore, SelfRatingEvaluator, UncertaintyEvaluator)
}
_KEPT = ("model", "revision", "dtype", "device_map", "adapters", "base_url")


def describe_for_copy(engine: Engine) -> tuple[dict[str, object], str | None]:
    """How a copy without this engine loads the same model, by names of fields; and what the copy then lacks, if it
    cannot, since the weights were made or changed in memory or the quantization is no plain setting."""
    described = engine.describe()
    lacking = described.get("weights_id") or described.get("quantization_config")
    fields = {name: described[name] for name in _KEPT if name in described}
    return fields, None if lacking is None else lacking if isinstance(lacking, str) else json.dumps(lacking)


def lacks_engine(owner: str, model: str) -> ModelLoadError:
    """The error of a copy that cannot load its model."""
    return ModelLoadError(
        f"This {owner} is a copy, by pickle or by dict, of one whose model {model!r} was in memory alone, and nothing "
        f"can load that again. Give the copy an engine, as in copy.model_copy(update={{'engine': engine}}), or save "
        f"the model to a folder and name that."
    )


def restore_evaluator(name: str, *, owner: str) -> Evaluator:
    """An evaluator of ours from its name, e.g. "FixedScore(40)".

    Raises:
        ConfigError: it is another one, whose name does not say how to make it.
    """
    try:
        return _evaluator(ast.parse(name, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"evaluator cannot be {name!r}: it must be an evaluator, and this one cannot be made from its name. Give "
            f"it again, as in {owner}.from_dict(data, evaluator=...)."
        ) from error


def _evaluator(call: ast.expr) -> Evaluator:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise ValueError("no call")
    arguments = [[*map(_evaluator, each.elts)] if isinstance(each, ast.List) else _plain(each) for each in call.args]
    return _BY_NAME[call.func.id](*arguments, **{str(each.arg): _plain(each.value) for each in call.keywords})


def _plain(value: ast.expr) -> object:
    return ast.literal_eval(value)


def restore_steering(described: Mapping[str, object], *, owner: str) -> Steering:
    """The Steering that `Steering.describe()` tells of.

    Raises:
        ConfigError: its evaluator or one of its callables cannot be made from a name.
    """
    defaults = Steering().describe()
    given = {name: value for name, value in described.items() if name not in defaults or value != defaults[name]}
    if isinstance(name := given.get("evaluator"), str):
        given["evaluator"] = restore_evaluator(name, owner=owner)
    return Steering.of_values(given)
