"""The fields of ChatSDA: checked at construction, made into requests, and told to caches and traces."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import LangSmithParams, ModelProfile
from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sda_engine import Alignment, EngineSettings, Steering, SteeringEngine
from sda_engine.adapting import (
    OUTPUT_KEYWORDS,
    REQUEST_KEYWORDS,
    Engine,
    alignment_of_field,
    combine_settings,
    describe_for_copy,
    describe_settings,
    is_engine,
    lacks_engine,
    make_remote_engine,
    other_model,
    refuse_loading,
    resolve_once,
    server_of,
)
from sda_engine.alignment import AlignmentLike
from sda_engine.config import Policy
from sda_engine.errors import ConfigError
from sda_engine.evaluators import Evaluator
from sda_engine.models import ModelSettings, QuantizationConfig, TemplateValue, context_window_of
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import wrong_field
from sda_integrations.langchain.call_config import ReadsCallConfig
from sda_integrations.langchain.logprobs import count_logprobs
from sda_integrations.langchain.output import make_output
from sda_integrations.langchain.profile import plain_profile, profile_of

_LOAD_DEFAULTS: Mapping[str, object] = {
    "revision": None,
    "device": "auto",
    "dtype": "auto",
    "device_map": None,
    "quantization_config": None,
    "adapters": None,
}
# LangChain's standard parameters that only a model behind a server has a use for: dropped where there is none, so that
# an application can exchange its chat model, and so that no key is kept
_FOR_REMOTE_MODELS = frozenset({"api_key", "max_retries"})
# Call keywords that BaseChatModel itself obeys, and hands on all the same
_READ_BY_LANGCHAIN = frozenset({"stream"})
_LOGPROBS = ("logprobs", "top_logprobs")


class ChatSDAFields(ReadsCallConfig):
    """What ChatSDA is constructed with; its docstring explains the fields."""

    model: str = Field(default="smollm2-135m", min_length=1, validation_alias=AliasChoices("model", "model_name"))
    engine: SkipValidation[Engine | None] = Field(default=None, exclude=True, repr=False)
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    max_retries: int | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | dict[str, int | str] | None = None
    quantization_config: QuantizationConfig | None = Field(default=None, exclude=True, repr=False)
    adapters: dict[str, str] | None = None
    engine_settings: EngineSettings | None = None

    alignment: SkipValidation[AlignmentLike | None] = None
    steering: SkipValidation[Steering | None] = Field(default=None, exclude=True, repr=False)
    policy: SkipValidation[Policy | None] = None
    evaluator: SkipValidation[Evaluator | None] = Field(default=None, exclude=True, repr=False)
    gain: SkipValidation[float | None] = None
    amplification: SkipValidation[float | None] = None
    temperature: SkipValidation[float | None] = None
    top_p: SkipValidation[float | None] = None
    top_k: SkipValidation[int | None] = None
    min_p: SkipValidation[float | None] = None
    max_tokens: SkipValidation[int | None] = None
    max_reasoning_tokens: SkipValidation[int | None] = None
    stop: SkipValidation[Sequence[str] | str | None] = None
    seed: SkipValidation[int | None] = None
    logprobs: SkipValidation[bool | None] = None
    top_logprobs: SkipValidation[int | None] = None
    timeout: SkipValidation[float | None] = None
    template_kwargs: SkipValidation[Mapping[str, TemplateValue] | None] = None
    adapter: SkipValidation[str | None] = None

    streaming: bool | None = None
    """Whether `invoke` streams internally; None: where a callback listens to its tokens."""

    _loaded: Engine | None = PrivateAttr(default=None)
    _lacking: str | None = PrivateAttr(default=None)  # of a pickled copy: the weights that it cannot load
    _profile_is_final: bool = PrivateAttr(default=True)  # the user's own, or of an engine that was asked
    _resolved: tuple[object, Alignment | None] = PrivateAttr(default=(None, None))

    # Inputs stay out of pydantic's own errors, since an evaluator's repr may hold a key
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    if not TYPE_CHECKING:  # type checkers keep the exact signature that pydantic synthesises from the fields

        def __init__(self, **values: Any) -> None:
            useless = _FOR_REMOTE_MODELS if values.get("base_url") is None else ()
            try:
                super().__init__(**{name: values[name] for name in values if name not in useless})
            except ValidationError as error:
                raise wrong_field("ChatSDA", error, type(self).model_fields) from error
            local = self.engine is not None and server_of(self.engine) is None
            self._profile_is_final = local or values.get("profile") is not None

    @field_validator("engine", mode="before")
    @classmethod
    def _an_engine(cls, engine: object) -> object:
        if engine is None or is_engine(engine):
            return engine
        raise PydanticCustomError("engine_type", "It must be an engine: a SteeringEngine or a RemoteEngine")

    @field_validator("alignment", mode="before")
    @classmethod
    def _one_alignment(cls, alignment: object) -> object:
        """One of several with weights, and of what `model_dump` made of one."""
        return alignment_of_field(alignment)

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        self._own_request()
        if self.engine is not None:
            self._check_engine_alone(self.engine)
            self.model = self.engine.name
        elif self.base_url is not None:
            refuse_loading("ChatSDA", self.base_url, self._given_for_loading())
            self.base_url = server_of(self._load(self.model, revision=None))  # which checks it
        return self

    def _given_for_loading(self) -> list[str]:
        defaults = {**_LOAD_DEFAULTS, "engine_settings": None}
        return [name for name, default in defaults.items() if getattr(self, name) != default]

    def _check_engine_alone(self, engine: Engine) -> None:
        given = self._given_for_loading()
        if self.base_url is not None:
            given.append("base_url")
        if "model" in self.model_fields_set and self.model != engine.name:
            given.append("model")
        if given:
            raise ConfigError(
                f"{given[0]}={getattr(self, given[0])!r} says what to load, and engine={engine!r} is loaded "
                f"already: give one of the two."
            )

    # --- What identifies the model: cache keys, traces, repr ---

    @property
    def _llm_type(self) -> str:
        return "sda-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identify(self._own_request(), self.model)

    def _identify(self, request: RequestSettings, model: str) -> dict[str, Any]:
        """All that can change an answer, as plain JSON; the same before and after the model is loaded."""
        if (server := self.base_url or server_of(self.engine)) is not None:
            loading: dict[str, object] = {"model": model, "base_url": server}
        elif model == self.model and self.engine is not None:
            loading = self.engine.describe()
        elif model == self.model and self._loaded is not None and "weights_id" in (known := self._loaded.describe()):
            loading = known
        else:
            loading = {name: getattr(self, name) for name in _LOAD_DEFAULTS}
            if self.quantization_config is not None:
                loading["quantization_config"] = self.quantization_config.to_dict()
        return {"model": model, "engine": loading, **describe_settings(request)}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        """What callbacks and traces see: the call's settings as they take effect, evaluators by name."""
        model = kwargs.get("model") or self.model
        return {**self._identify(self._request(stop, kwargs), model), "_type": self._llm_type}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache key beside the prompt: all that decides the answer, and no object's repr."""
        return json.dumps(self._get_invocation_params(stop=stop, **kwargs), sort_keys=True, default=str)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        model = kwargs.get("model") or self.model
        sampling = self._request(stop, kwargs).sampling
        params = LangSmithParams(
            ls_provider="sda",
            ls_model_name=model,
            ls_model_type="chat",
            ls_temperature=sampling.temperature,
            ls_max_tokens=sampling.max_new_tokens,
        )
        if sampling.stop:
            params["ls_stop"] = list(sampling.stop)
        return params

    def __repr_args__(self) -> Any:
        yield from super().__repr_args__()
        if self.steering is not None or self.evaluator is not None:
            yield "steering", self._own_request().steering.describe()

    # --- The engine, and what to ask of it ---

    def load_engine(self, model: str | None = None) -> Engine:
        """The engine behind this model. The first call loads it, which every first request does too.

        With a `base_url` the server is asked what it knows of the model.

        Args:
            model: another model, for one call; it is loaded with this one's load settings, or the same server's.

        Raises:
            ModelLoadError: there is no such model, or the engine cannot run it.
            ConfigError: a load setting is out of range or not available on this machine, or the server refuses the key.
            ServerError: the server cannot be reached.
        """
        if model is not None and model != self.model:
            own = self.engine or self._loaded
            return (own and other_model(own, model)) or self._load(model, revision=None)
        engine = self.engine or self._loaded
        if engine is None or (engine is self._loaded and engine.closed):
            if self._lacking is not None:
                raise lacks_engine("ChatSDA", self.model)
            engine = self._loaded = self._load(self.model, revision=self.revision)
        if not self._profile_is_final:
            self.profile, self._profile_is_final = profile_of(engine), True
        return engine

    async def _aload_engine(self, model: str | None) -> Engine:
        ready = self.engine or self._loaded
        if ready is not None and not ready.closed and model in (None, self.model) and self._profile_is_final:
            return ready
        return await asyncio.to_thread(self.load_engine, model)

    def __getstate__(self) -> dict[Any, Any]:
        """Without the engine and the key: a pickled copy loads the model anew, by its name or from its server."""
        state = super().__getstate__()
        state["__dict__"] = {**state["__dict__"], "api_key": None}
        state["__pydantic_private__"] = private = {**(state["__pydantic_private__"] or {}), "_loaded": None}
        if self.engine is not None:
            fields, private["_lacking"] = describe_for_copy(self.engine)
            state["__dict__"] = {**state["__dict__"], **fields, "engine": None}
        return state

    def _load(self, model: str, *, revision: str | None) -> Engine:
        if self.base_url is not None:
            return make_remote_engine(self.base_url, model, api_key=self.api_key, max_retries=self.max_retries)
        return SteeringEngine.load(
            model,
            revision=revision,
            device=self.device,
            dtype=self.dtype,
            device_map=self.device_map,
            quantization_config=self.quantization_config,
            adapters=self.adapters,
            settings=self.engine_settings,
        )

    def _resolve_model_profile(self) -> ModelProfile:
        """What the model can do, for agents and middleware.

        The context window is read from the model's configuration; of a Hub model that was never downloaded, and of a
        server's, it is known once that is loaded, and so is whether a model thinks or reads pictures.
        """
        if self.engine is not None and server_of(self.engine) is None:
            return profile_of(self.engine)
        profile = plain_profile()
        if self.engine is None and self.base_url is None:  # no server is asked before it has to be
            window = context_window_of(ModelSettings(model=self.model, revision=self.revision))
            if window is not None:
                profile["max_input_tokens"] = window - 1
        return profile

    def _own_request(self) -> RequestSettings:
        """What the fields ask of the engine."""
        return combine_settings(self._own_settings({}), owner="ChatSDA")

    def _request(self, stop: list[str] | None, call: Mapping[str, object]) -> RequestSettings:
        """What a call asks of the engine, `model` apart, which says of which engine."""
        elsewhere = {*_READ_BY_LANGCHAIN, *_LOGPROBS, *OUTPUT_KEYWORDS, "model"}
        keywords = {name: value for name, value in call.items() if name not in elsewhere}
        request = combine_settings(self._own_settings(call), {**keywords, "stop": stop}, owner="ChatSDA")
        return replace(request, output=make_output(call))

    def _own_settings(self, call: Mapping[str, object]) -> dict[str, object]:
        """The fields as request keywords; log-probabilities as one call's pair of keywords overrides them."""
        wanted, top = (call.get(name) for name in _LOGPROBS)
        top = self.top_logprobs if top is None and wanted is not False else top
        wanted = self.logprobs if wanted is None else wanted
        fields = {name: getattr(self, name) for name in REQUEST_KEYWORDS}
        return {**fields, "alignment": self._own_alignment(), "logprobs": count_logprobs(wanted, top)}

    def _own_alignment(self) -> Alignment | None:
        """The field's alignment, resolved once, so that it is warned of once."""
        self._resolved = resolve_once(self.alignment, self._resolved)
        return self._resolved[1]
