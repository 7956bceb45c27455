"""VLLMEngine: a SteeringEngine whose tokens vLLM decodes. It lives in the process of vLLM's server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from sda_engine.decoding.states import StateCost
from sda_engine.engine import SteeringEngine
from sda_engine.engine_parts import EngineParts
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import evaluator_name, needs_logprobs, needs_model
from sda_engine.models import Adapter, ModelFacts
from sda_engine.prompts import Message
from sda_engine.request import Request
from sda_engine.request_settings import RequestSettings
from sda_engine.tokens import SafeTokenizer
from sda_integrations.vllm.task_runner import TaskRunner


class VLLMEngine(SteeringEngine):
    """Requests run through the same stages as everywhere; vLLM runs the model, and steers in its own batch.

    Only its asynchronous methods can be used. What has to look inside the model is refused.

    Args:
        facts: of the model that vLLM has loaded.
        runner: decodes in vLLM.
        vocab_size: of the model's logits.
        place: device and dtype of the model.
        cache_tokens: tokens of which vLLM can hold keys and values.
        settings: how many requests may be taken on.
    """

    backend = "vllm"
    has_evaluators = False
    tells_traces = False

    def __init__(
        self,
        facts: ModelFacts,
        runner: TaskRunner,
        *,
        vocab_size: int,
        place: tuple[str, str],
        cache_tokens: int,
        settings: EngineSettings,
    ) -> None:
        self._set_up(
            EngineParts(
                facts=facts,
                settings=settings,
                tokenizer=SafeTokenizer(facts.tokenizer),
                vocab_size=vocab_size,
                cache_tokens=cache_tokens,
                runner=_InVLLM(place),
                scheduler=runner,
                adapters=_NoAdapters(),
                weights=_LoadedWeights(),
            )
        )

    def _request(self, messages: Sequence[Message], settings: RequestSettings) -> Request:
        steering = settings.steering
        if steering.guard != "off":
            raise ConfigError(
                f"Steering.guard={steering.guard!r} cannot be had inside vLLM, which tells nothing of how undecided "
                f"the contexts were. Leave it out, or ask an engine of `sda serve`.",
                field="guard",
            )
        for role, evaluator in (("evaluator", steering.evaluator), ("chooser", steering.chooser)):
            if evaluator is not None and (needs_logprobs(evaluator) or needs_model(evaluator)):
                raise ConfigError(
                    f"{evaluator_name(evaluator)} looks inside the model, which nothing can inside vLLM. Use a judge "
                    f"(OpenAIEvaluator with RemoteEngine, or one that the server's operator offers), a fixed "
                    f"amplification, or an engine of `sda serve`.",
                    field=role,
                )
        return super()._request(messages, settings)


@dataclass(frozen=True)
class _InVLLM:
    """How vLLM runs the model, as far as an engine asks."""

    place: tuple[str, str]
    name: str = "vllm"
    reason: str | None = None
    token_cost: float = 0.0
    state_cost: StateCost = field(default_factory=StateCost)

    @property
    def model(self) -> PreTrainedModel:
        """There is none in this process.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("The model is in vLLM's engine, another process: nothing here can look inside it.")

    def release(self) -> None:
        """Nothing is held."""


class _NoAdapters:
    """Requests name no adapters: vLLM serves a LoRA as a model of its own name, to requests without steering."""

    def get(self, name: str | None) -> Adapter | None:
        """None for None.

        Raises:
            ConfigError: an adapter is asked for.
        """
        if name is None:
            return None
        raise ConfigError(
            f"adapter cannot be {name!r} inside vLLM: steering under an adapter is for `sda serve`. Leave it out.",
            field="adapter",
        )

    def release(self) -> None:
        """Nothing is held."""


class _LoadedWeights:
    """The weights are those that vLLM was told to load."""

    name: str | None = None

    def release(self) -> None:
        """Nothing is held."""
