"""PEFT adapters of a model: which there are, and one of them at work for a pass.

An adapter's layers stand around the model's own and ask themselves which adapters are at work. Here their answer is
changed for one pass and put back, without PEFT's own methods, which also decide what is trained.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from sda_engine.errors import ConfigError, ModelLoadError
from sda_engine.forks import make_lock

_WEIGHTS = "adapter_model.safetensors"
_ACTIVE, _DISABLED = "_active_adapter", "_disable_adapters"  # what an adapter's layer keeps of it
_given: WeakKeyDictionary[nn.Module, Mapping[str, object]] = (
    WeakKeyDictionary()
)  # while a pass has an adapter of its own
_switching = make_lock()  # held while that is changed or read, never for the length of a pass


@dataclass(frozen=True)
class Adapter:
    """An adapter that a request runs under.

    Attributes:
        name: as PEFT knows it.
        number: from 1, for the keys of stored prefixes; an engine gives each name one.
    """

    name: str
    number: int


class Adapters:
    """The adapters of one engine's model, by name.

    Args:
        model: the model, whose adapters may come and go.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: nn.Module | None = model
        self._numbers: dict[str, int] = {}
        self._lock = make_lock()

    def get(self, name: str | None) -> Adapter | None:
        """The adapter with a name; None for None: the model as it was given, with the adapters that are active on it.

        Raises:
            ConfigError: the model has no such adapter, or its adapters are merged into its weights.
        """
        if name is None or self._model is None:  # an engine that is closed says so itself
            return None
        layers = _layers(self._model)
        names = _names(layers)
        if name not in names:
            known = f"It must be one of: {', '.join(sorted(names))}." if names else _LOAD_ONE
            raise ConfigError(
                f"adapter cannot be {name!r}: the model has no adapter of that name. {known}", field="adapter"
            )
        if any(getattr(layer, "merged", False) for layer in layers):
            raise ConfigError(
                f"adapter={name!r} cannot be told apart from what is merged into the model's weights. Take it out "
                f"again (model.unmerge_adapter()), or leave the adapter out.",
                field="adapter",
            )
        with self._lock:
            return Adapter(name, self._numbers.setdefault(name, len(self._numbers) + 1))

    def release(self) -> None:
        """Let go of the model."""
        self._model = None


_LOAD_ONE = (
    "It has none: load some with SteeringEngine.load(..., adapters={'name': folder}), model.load_adapter(...) or PEFT."
)


def without_wrapper(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside a PeftModel, adapters and all; any other model as it is.

    Raises:
        ModelLoadError: its adapters are no layers, but tokens in front of the text.
    """
    if "peft" not in sys.modules:
        return model
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    for name, config in model.peft_config.items():
        if config.is_prompt_learning:
            raise ModelLoadError(
                f"The adapter {name!r} is of type {config.peft_type.value}, which puts tokens of its own in front of "
                f"each text, and rows have no place for them. Use an adapter that changes layers, such as LoRA."
            )
    inside: PreTrainedModel = model.get_base_model()
    return inside


def load_adapters(model: PreTrainedModel, folders: Mapping[str, str]) -> None:
    """Load adapters onto a model; none of them is at work until a request names it.

    Args:
        model: the model.
        folders: the name of each -> a folder, or a Hub id.

    Raises:
        ModelLoadError: PEFT is missing, or one of them cannot be loaded. Pickled weights are not read.
    """
    if folders and find_spec("peft") is None:
        raise ModelLoadError("Adapters need PEFT. Install it: pip install 'sda-integrations[adapters]'.")
    for name, folder in folders.items():
        try:
            cached_file(folder, _WEIGHTS)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is asked for
                report = model.load_adapter(folder, adapter_name=name)
        except Exception as error:  # a stranger's files can break PEFT anywhere
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ModelLoadError(
                f"The adapter {name!r} could not be loaded from {folder!r}: {reason}. Check that it is a folder with "
                f"adapter_config.json and {_WEIGHTS}, made for this model, or a Hub id that this machine can reach."
            ) from error
        if missing := sorted(key for key in report.missing_keys if f".{name}." in key):
            raise ModelLoadError(
                f"The files of the adapter {name!r} lack {', '.join(missing)}. Save it anew from "
                f"the model that it was trained on."
            )
    if folders:
        model.disable_adapters()
        model.train(False)


@contextmanager
def adapter_at_work(model: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """Within the block the model computes with one adapter alone; None leaves it as it was given.

    What its owner changes meanwhile stays.

    Raises:
        ConfigError: the adapter is gone.
    """
    if adapter is None:
        yield
        return
    wanted: Mapping[str, object] = {_ACTIVE: [adapter.name], _DISABLED: False}
    layers = _layers(model)
    if adapter.name not in _names(layers):
        raise ConfigError(f"The adapter {adapter.name!r} has been taken off the model while a request ran under it.")
    with _switching:
        for layer in layers:
            _given[layer] = {name: layer.__dict__[name] for name in wanted}
            layer.__dict__.update(wanted)
    try:
        yield
    finally:
        with _switching:
            for layer in layers:
                given = _given.pop(layer)
                for name, value in wanted.items():
                    if layer.__dict__[name] is value:
                        layer.__dict__[name] = given[name]


@contextmanager
def as_given() -> Iterator[None]:
    """Within the block no pass puts an adapter to work, nor back: `settings_as_given` can be read."""
    with _switching:
        yield


def settings_as_given(layer: nn.Module) -> Mapping[str, object]:
    """What a layer keeps, with the adapters that its owner made active."""
    given = _given.get(layer) if _given else None
    return layer.__dict__ if given is None else {**layer.__dict__, **given}


def _layers(model: nn.Module) -> Sequence[nn.Module]:
    """The layers that adapters have put into a model."""
    if "peft" not in sys.modules:
        return ()
    return [layer for layer in model.modules() if _ACTIVE in layer.__dict__ and _DISABLED in layer.__dict__]


def _names(layers: Sequence[nn.Module]) -> set[str]:
    """The adapters that have weights in some layer."""
    return {
        name
        for layer in layers
        for part in getattr(layer, "adapter_layer_names", ())
        for name in getattr(layer, part, None) or ()
    }
