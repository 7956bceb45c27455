"""Service: what the routes of one server work with."""

from dataclasses import dataclass, replace
from typing import Self

from starlette.requests import Request

from sda_engine.engine import SteeringEngine
from sda_engine.request_settings import RequestSettings
from sda_engine.wire.read_request import ServerDefaults
from sda_integrations.server.draining import Draining
from sda_integrations.server.evaluators import EvaluatorsByName
from sda_integrations.server.keys import ApiKeys
from sda_integrations.server.metrics import Metrics
from sda_integrations.server.models import ServedModel, ServedModels
from sda_integrations.server.settings import ServerSettings


@dataclass(frozen=True)
class Service:
    """One engine, and how a server offers it.

    Attributes:
        engine: what answers.
        settings: what the server was given.
        defaults: what requests are laid over.
        models: the names that clients may ask for.
        evaluators: those that they may name.
        keys: the keys that let them in.
        metrics: what is counted.
        draining: whether the server is ending.
    """

    engine: SteeringEngine
    settings: ServerSettings
    defaults: ServerDefaults
    models: ServedModels
    evaluators: EvaluatorsByName
    keys: ApiKeys
    metrics: Metrics
    draining: Draining

    @classmethod
    def of(cls, engine: SteeringEngine, settings: ServerSettings) -> Self:
        """The service that settings mean.

        Raises:
            ConfigError: they do not go together.
        """
        evaluators = EvaluatorsByName.of(settings)
        steering = settings.steering.replace_given(
            evaluator=None if settings.evaluator is None else evaluators.get(settings.evaluator),
            chooser=None if settings.chooser is None else evaluators.get(settings.chooser),
        )
        models = ServedModels(engine, settings)
        requested = RequestSettings(settings.default_alignment(), steering, settings.sampling)
        return cls(
            engine=engine,
            settings=settings,
            defaults=ServerDefaults(requested, evaluators.get, settings.alignments),
            models=models,
            evaluators=evaluators,
            keys=ApiKeys(settings.api_keys),
            metrics=Metrics(engine, evaluators),
            draining=Draining(),
        )

    def defaults_of(self, model: ServedModel) -> ServerDefaults:
        """What a request is laid over that asks for a model by one of its names."""
        settings = replace(self.defaults.settings, alignment=model.alignment, adapter=model.adapter)
        return replace(self.defaults, settings=settings)


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as far as an answer depends on it.

    Attributes:
        request_id: the request's id, for the log.
        cache_salt: what the stored prefixes of its prompts are salted with; None where the server has no keys.
    """

    request_id: str
    cache_salt: str | None


def caller_of(request: Request) -> Caller:
    """Who sent a request."""
    state = request.scope["state"]
    return Caller(state["request_id"], state.get("cache_salt"))
