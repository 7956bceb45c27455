"""ServedModels: the names that clients may ask for, and what each of them means."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sda_engine.alignment import PRESETS, Alignment
from sda_engine.engine import SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.settings import shown
from sda_engine.wire.replies import ModelCard
from sda_integrations.server.replies import RefusalError, error_response
from sda_integrations.server.settings import ServerSettings

_PRIVATE = ("model", "adapters", "revision", "device_map", "quantization_config")  # of describe(): they may hold paths


@dataclass(frozen=True)
class ServedModel:
    """What a model's name asks for.

    Attributes:
        id: the name.
        alignment: what is steered by where the request does not say; None for a plain answer.
        adapter: the PEFT adapter of the name; None for the model as it was given.
    """

    id: str
    alignment: Alignment | None
    adapter: str | None = None


class ServedModels:
    """The engine's model under its served name, and its aliases NAME:ALIGNMENT and NAME:ADAPTER.

    Aliases are for clients that cannot send the field `sda`.

    Args:
        engine: whose model it is.
        settings: the names of the model and of the server's own alignments.

    Raises:
        ConfigError: an alignment and an adapter have the same name.
    """

    def __init__(self, engine: SteeringEngine, settings: ServerSettings) -> None:
        self._engine = engine
        self._created = int(time.time())
        self.name = settings.served_model_name or public_name(engine.name)
        self.alignments: Mapping[str, Alignment] = {**PRESETS, **settings.alignments}
        adapters = engine.describe().get("adapters")
        self.adapters: tuple[str, ...] = tuple(adapters) if isinstance(adapters, Mapping) else ()
        if both := sorted(self.alignments.keys() & set(self.adapters)):
            raise ConfigError(
                f"An alignment and an adapter are both named {both[0]!r}, so {self.name}:{both[0]} could mean either: "
                f"rename one of them."
            )
        default = settings.default_alignment()
        named = [ServedModel(f"{self.name}:{name}", one) for name, one in self.alignments.items()]
        named += [ServedModel(f"{self.name}:{name}", default, name) for name in self.adapters]
        self._models = {model.id: model for model in (ServedModel(self.name, default), *named)}

    def get(self, name: str) -> ServedModel:
        """What a name means.

        Raises:
            RefusalError: nothing is served under it: a 404 that tells what is.
        """
        if name in self._models:
            return self._models[name]
        raise RefusalError(
            error_response(
                404,
                f"model cannot be {shown(name)}: this server has {', '.join(self._models)}.",
                code="model_not_found",
                param="model",
            )
        )

    def card(self, name: str) -> ModelCard:
        """What clients are told of a model.

        Raises:
            RefusalError: nothing is served under that name.
        """
        return self._card(self.get(name), self._engine.describe())

    def cards(self) -> list[ModelCard]:
        """What clients are told of all of them; the model itself comes first."""
        described = self._engine.describe()
        return [self._card(model, described) for model in self._models.values()]

    def _card(self, model: ServedModel, described: Mapping[str, object]) -> ModelCard:
        engine = self._engine
        told = {key: value for key, value in described.items() if key not in _PRIVATE}
        told |= {
            "model": self.name,
            "backend": engine.backend,
            "evaluators": engine.has_evaluators,
            "identity": hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
            "thinks": engine.thinks,
            "reads_pictures": engine.reads_pictures,
            "template_variables": sorted(engine.template_variables),
            "alignment": None if model.alignment is None else model.alignment.name,
            "adapter": model.adapter,
            "adapters": list(self.adapters),
        }
        return ModelCard(id=model.id, created=self._created, max_model_len=engine.context_window, sda=told)


def public_name(name: str) -> str:
    """What clients call a model by default: its name, but of a folder or file only the last part of its path."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name
