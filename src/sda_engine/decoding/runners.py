"""Which of the two ways to run a model is taken, and what users are told of it."""

import logging

from transformers import PreTrainedModel

from sda_engine.decoding.architecture import ANOTHER_TYPE, read_architecture
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.own_cache import OwnCacheRunner
from sda_engine.decoding.runner import Runner
from sda_engine.errors import ModelLoadError

_logger = logging.getLogger(__name__)


def make_runner(model: PreTrainedModel) -> Runner:
    """The flat runner where it is right about the model, else the one on the model's own cache.

    Raises:
        ModelLoadError: neither is.
    """
    try:
        return ModelRunner(model)
    except ModelLoadError as error:
        flat = error
    if flat.reason is None:
        raise flat
    try:
        runner = OwnCacheRunner(model)
    except ModelLoadError as error:
        raise _refused(model, flat, error) from flat
    runner.reason = explain_own_cache(model, flat.reason, _costs(runner))
    _logger.warning("This model runs on its own cache, which costs time. %s", runner.reason)
    return runner


def explain_own_cache(model: PreTrainedModel, reason: str, costs: str) -> str:
    """Why a model runs on its own cache, and what that costs.

    Args:
        reason: what such models have that keeps them out of the flat runner.
        costs: what there is beside prefixes and proposals.
    """
    return (
        f"Models of type {model.config.model_type!r} have {reason}, so that rows cannot share a flat pass: "
        f"no prefix is stored, no token is proposed, {costs}."
    )


def foreseen_runner(model: PreTrainedModel) -> tuple[str, str | None]:
    """The name of the runner that a model is going to have, as far as its configuration tells, and why if not the flat.

    Args:
        model: may be without weights, on the meta device.
    """
    try:
        read_architecture(model)
    except ModelLoadError as error:
        if error.reason is None:
            raise
        return OwnCacheRunner.name, explain_own_cache(model, error.reason, "each prompt goes through passes of its own")
    return ModelRunner.name, None


def storing_layers(model: PreTrainedModel) -> int:
    """How many layers store keys and values of their own, as far as the configuration tells; else all."""
    try:
        return sum(layer.stores for layer in read_architecture(model).layers)
    except ModelLoadError:
        return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def _costs(runner: OwnCacheRunner) -> str:
    prompts = "" if runner.ways.pieces else " in one piece"
    rows = "rows that decode go through them together" if runner.ways.joins else "so does each row for each token"
    return f"each prompt goes through passes of its own{prompts}, and {rows}"


def _refused(model: PreTrainedModel, flat: ModelLoadError, own: ModelLoadError) -> ModelLoadError:
    return ModelLoadError(
        f"Models of type {model.config.model_type!r} have {flat.reason}, and the engine cannot decode several rows of "
        f"them in one pass; nor can it on the model's own cache, since they have {own.reason}. {ANOTHER_TYPE}",
        reason=flat.reason,
    )
