"""SDAModelAPI: the model provider `sda/<model>` of Inspect AI, over a steering engine here or behind a server."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelCall,
    ModelOutput,
    RetryDecision,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from sda_engine import EngineSettings, Sampling, SteeringEngine
from sda_engine.adapting import (
    Engine,
    all_or_first_failure,
    combine_settings,
    describe_settings,
    make_remote_engine,
    server_of,
    settings_of_each,
)
from sda_engine.errors import ConfigError, ContextLengthError, InvalidOutputError, MessageError
from sda_engine.prompts import Message
from sda_engine.request_settings import RequestSettings
from sda_integrations.inspect.arguments import read_arguments, read_extra_body
from sda_integrations.inspect.generate_config import (
    count_choices,
    effort_variables,
    make_output,
    refuse_unsupported,
    request_keywords,
)
from sda_integrations.inspect.messages import to_engine_messages
from sda_integrations.inspect.output import Answer, to_model_output
from sda_integrations.inspect.retries import decide_retry
from sda_integrations.inspect.stages import Stopwatch

_ROWS_OF_A_REQUEST = 2  # of a steered one: base and instructed

Result = TypeVar("Result")


class SDAModelAPI(ModelAPI):
    """A local model whose answers are steered while they are decoded.

    inspect eval tasks.py --model sda/smollm2-135m -M alignment=honesty -M evaluator=contrastive -M gain=3

    get_model("sda/smollm2-135m", alignment="honesty", steering={"policy": "paper"})
    get_model(f"sda/{engine.name}", engine=engine, alignment="honesty", memoize=False)
    get_model("sda/smollm2-135m", base_url="http://host:8000/v1", alignment="honesty")

    Inspect keeps models by name and arguments, and objects among them all look alike to it: `memoize=False` where an
    argument is one, such as an engine or an evaluator.

    Args:
        model_name: an alias ("smollm2-135m"), a local path or a Hub id. It is loaded by the first request, off the
            event loop; equal load settings share one engine.
        base_url: the root of a server's API (`sda serve`), which answers in place of this process, from a model that it
            has loaded. An evaluator "server:NAME" is one of its own. How long its stages take is not known here.
        api_key: the server's key; None means SDA_API_KEY, which is better, since Inspect keeps what it is given.
            Dropped where there is no base_url.
        config: checked at once; Inspect merges it with that of each call.
        model_args: all optional.
            alignment: a preset's name, an instruction of one's own, a mapping of alignments to weights, or what
                Alignment.model_dump makes. None gives plain answers.
            policy, evaluator, gain, amplification, steering: how to steer, as in ChatSDA. An evaluator may be a text
                ("contrastive", "openai:gpt-4.1", "simulated:2"), steering a mapping of its fields.
            evaluator_url: the server that "openai:MODEL" asks, in place of OpenAI.
            min_p, template_kwargs, adapter: see Sampling and SteeringEngine.generate.
            revision, device, dtype, device_map, quantization_config, adapters, engine_settings: see
                SteeringEngine.load; a mapping does for EngineSettings.
            engine: one that is loaded already.
            trace: whether an output's metadata holds every token (see `output.sda_metadata`); True by default.

    One call overrides alignment, policy, evaluator, gain, amplification, steering, min_p, template_kwargs and
    adapter by GenerateConfig.extra_body, and the rest by GenerateConfig's own fields: see `generate_config.FIELDS`.

    Raises:
        ConfigError: an argument or a field of the config is unknown, out of range or cannot be obeyed.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - never changed
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, None, [], config)  # what Inspect is not given it cannot show
        refuse_unsupported(config)
        self._arguments = read_arguments(model_name, model_args, base_url)
        self._loaded: Engine | None = None
        self._remote = (
            make_remote_engine(base_url, model_name, api_key=api_key, trace=self._arguments.trace) if base_url else None
        )

    # --- The engine ---

    @property
    def engine(self) -> Engine:
        """The engine behind this model, e.g. for scorers. The first use loads it; `aload_engine` is for event loops.

        Raises:
            ModelLoadError: there is no such model, or the engine cannot run it.
            ConfigError: a load setting is out of range or not available on this machine.
        """
        if self._arguments.engine is not None:
            return self._arguments.engine
        if self._loaded is None or self._loaded.closed:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Engine:
        if self._remote is not None:
            self._remote.connect()
            return self._remote
        # Whoever asks for the same at the same time waits in there for the one that is loaded
        return SteeringEngine.load(
            self.model_name,
            settings=self._arguments.settings,
            **self._arguments.loading,  # type: ignore[arg-type]  # which checks them
        )

    async def aload_engine(self) -> Engine:
        """`engine` for an event loop, which goes on while the model is loaded."""
        ready = self._arguments.engine or self._loaded
        if ready is not None and not ready.closed:
            return ready
        return await asyncio.to_thread(lambda: self.engine)

    def close(self) -> None:
        """Let go of the engine. It stays loaded, since others may use it: whoever wants its memory back closes it."""
        self._loaded = None

    # --- Answers ---

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> tuple[ModelOutput, ModelCall]:
        """Answer a chat; with num_choices, several times at once.

        A prompt that the context window cannot hold is an output with stop reason "model_length". An answer that misses
        a part of its schema that no grammar could enforce is given as it is, and `metadata["sda"]["misfit"]` tells it.

        Raises:
            ConfigError, MessageError, ConstraintError: what is asked for cannot be done.
            SDAError: whatever else the engine raises, see `SteeringEngine.generate`.
        """
        _check_event_loop()
        refuse_unsupported(config)
        began = time.perf_counter()
        chat = to_engine_messages(input)
        engine = await self.aload_engine()
        request = self._request(engine, tools, tool_choice, config)
        try:
            answers = await self._answers(engine, chat, request, count_choices(config))
        except ContextLengthError as error:
            output = ModelOutput.from_content(self.model_name, str(error), stop_reason="model_length")
        except InvalidOutputError as error:
            output = ModelOutput.from_content(self.model_name, error.text)
            output.metadata = {"sda": {"misfit": str(error)}}
        else:
            write = partial(
                to_model_output,
                self.model_name,
                answers,
                max_new_tokens=request.sampling.max_new_tokens,
                count_tokens=lambda text: len(engine.encode(text)),
                trace=self._arguments.trace,
                seconds=time.perf_counter() - began,
            )
            output = await _call(engine, write)
        asked = {"model": engine.describe(), "messages": chat, **describe_settings(request)}
        given = output.model_dump(mode="json", exclude={"metadata"}, exclude_none=True)  # that is logged beside it
        return output, ModelCall.create(asked, given, time=time.perf_counter() - began)

    def _request(
        self, engine: Engine, tools: Sequence[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> RequestSettings:
        """What a call asks of the engine: the model's own arguments, those of the call over them."""
        extra = read_extra_body(config.extra_body, self._arguments.evaluators)
        wanted = config.reasoning_effort
        effort = {} if wanted is None else effort_variables(wanted, engine.template_variables, thinks=engine.thinks)
        layers = (self._arguments.request, {**request_keywords(config), "template_kwargs": effort}, extra)
        request = combine_settings(*layers, owner=f"sda/{self.model_name}")
        return replace(request, output=make_output(tools, tool_choice, config))

    async def _answers(
        self, engine: Engine, chat: Sequence[Message], request: RequestSettings, choices: int
    ) -> list[Answer]:
        return await all_or_first_failure([_answer(engine, chat, one) for one in settings_of_each(request, choices)])

    # --- What Inspect asks of a provider ---

    async def count_tokens(self, input: str | list[ChatMessage], config: GenerateConfig | None = None) -> int:
        """Tokens of a text, or of the prompt that messages become; of messages that are no prompt, of their texts."""
        if isinstance(input, str):
            return await self.count_text_tokens(input)
        engine = await self.aload_engine()
        try:
            return await asyncio.to_thread(engine.count_prompt_tokens, to_engine_messages(input))
        except MessageError:  # a single turn, say, which the template does not take alone
            return await super().count_tokens(input, config)

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text by the model's own tokenizer, special tokens left out."""
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens are neither added nor recognised."""
        engine = await self.aload_engine()
        return await _call(engine, lambda: engine.encode(text))

    def max_tokens(self) -> int:
        """The engine's own default."""
        return Sampling().max_new_tokens

    def max_connections(self) -> int:
        """As many requests as the engine decodes in one batch when they are steered."""
        settings = self._arguments.settings or EngineSettings()
        return max(1, settings.max_rows // _ROWS_OF_A_REQUEST)

    def connection_key(self) -> str:
        """One for each model, since those that share an engine share its batch."""
        return self.model_name if self._remote is None else f"{self._remote.base_url} {self.model_name}"

    def force_reasoning_history(self) -> Literal["none"]:
        """Chat templates leave out what was thought in earlier turns."""
        return "none"

    def should_retry(self, ex: Exception) -> RetryDecision:
        """Whether to try a request again: see `retries.decide_retry`."""
        return decide_retry(ex)


async def _answer(engine: Engine, chat: Sequence[Message], request: RequestSettings) -> Answer:
    stopwatch = Stopwatch()
    if server_of(engine) is None:  # evaluators of a server cannot be watched from here
        request = replace(request, steering=stopwatch.watch(request.steering, request.alignment))
    completion = await engine.agenerate(chat, **request.arguments())
    return Answer(completion, stopwatch.stages(completion))


async def _call(engine: Engine, function: Callable[[], Result]) -> Result:
    """What a function returns; it runs in a thread where its engine asks a server, for which no loop must wait."""
    return function() if server_of(engine) is None else await asyncio.to_thread(function)


def _check_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigError("sda models need asyncio: leave out INSPECT_ASYNC_BACKEND, or set it to asyncio.") from error
