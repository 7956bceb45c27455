"""What an engine is made of: a model that is loaded, and what runs tasks on it. Another engine may bring its own."""

from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel

from sda_engine.decoding import RunsTasks, Scheduler, default_cache_tokens, make_runner
from sda_engine.decoding.states import StateCost
from sda_engine.engine_settings import EngineSettings
from sda_engine.models import Adapter, Adapters, LoadedModel, ModelFacts, WeightsIdentity
from sda_engine.tokens import SafeTokenizer, make_tokenizer


class RunsModel(Protocol):
    """What an engine knows of how its model runs; `sda_engine.decoding.runner.Runner` says what each part means."""

    @property
    def name(self) -> str:
        """The way of running."""

    @property
    def reason(self) -> str | None:
        """Why this way."""

    @property
    def place(self) -> tuple[str, str]:
        """Device and dtype."""

    @property
    def token_cost(self) -> float:
        """What one more token in a pass costs."""

    @property
    def state_cost(self) -> StateCost:
        """What the state of a row takes."""

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""

    def release(self) -> None:
        """Let go of the model."""


class KnowsAdapters(Protocol):
    """Finds PEFT adapters by name."""

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of a name; ConfigError where there is none."""

    def release(self) -> None:
        """Let go of the model."""


class NamesWeights(Protocol):
    """What tells weights apart."""

    @property
    def name(self) -> str | None:
        """A name that no other weights have; None where settings tell them."""

    def release(self) -> None:
        """Let go of the model."""


@dataclass(frozen=True)
class EngineParts:
    """What an engine is made of.

    Attributes:
        vocab_size: of the model's logits.
        cache_tokens: the most tokens whose keys and values rows may come to hold.
    """

    facts: ModelFacts
    settings: EngineSettings
    tokenizer: SafeTokenizer
    vocab_size: int
    cache_tokens: int
    runner: RunsModel
    scheduler: RunsTasks
    adapters: KnowsAdapters
    weights: NamesWeights


def local_parts(loaded: LoadedModel, settings: EngineSettings, *, can_be_loaded: bool) -> EngineParts:
    """The parts of an engine that runs a model in this process.

    Args:
        can_be_loaded: whether the model's settings tell all about its weights.

    Raises:
        ModelLoadError: no runner can run this kind of model.
    """
    model, facts = loaded.model, loaded.facts
    runner = make_runner(model)
    cache_tokens = settings.cache_tokens
    if cache_tokens is None:
        cache_tokens = default_cache_tokens(model.device, runner.bytes_per_token)
    return EngineParts(
        facts=facts,
        settings=settings,
        tokenizer=make_tokenizer(loaded, settings.picture_limits if runner.takes_pictures else None),
        vocab_size=model.config.get_text_config(decoder=True).vocab_size,
        cache_tokens=cache_tokens,
        runner=runner,
        scheduler=Scheduler(runner, settings, cache_tokens),
        adapters=Adapters(model),
        weights=WeightsIdentity(model, can_be_loaded=can_be_loaded),
    )
