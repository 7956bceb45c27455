"""SDALLM's fields: checked, copied, serialised, and turned into what the engine takes."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    SkipValidation,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema

from sda_engine import Alignment, EngineSettings, Steering, SteeringEngine
from sda_engine.adapting import (
    OUTPUT_KEYWORDS,
    REQUEST_KEYWORDS,
    Engine,
    alignment_of_field,
    combine_settings,
    describe_for_copy,
    is_engine,
    lacks_engine,
    make_remote_engine,
    refuse_loading,
    resolve_once,
    restore_evaluator,
    restore_steering,
    server_of,
)
from sda_engine.alignment import AlignmentLike
from sda_engine.config import Policy
from sda_engine.errors import ConfigError
from sda_engine.evaluators import Evaluator
from sda_engine.models import TemplateValue
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import shown, wrong_field
from sda_integrations.llama_index.call_settings import settings_around
from sda_integrations.llama_index.output import make_output

if TYPE_CHECKING:
    from sda_engine import RemoteEngine

# HTTP settings that DocumentContextExtractor sends with every call; they mean nothing to a local model
_FOR_REMOTE_MODELS = frozenset({"extra_headers"})
_LOADING = ("model", "revision", "device", "dtype", "device_map", "quantization_config", "adapters")
_LOADING_HERE = (*_LOADING[1:], "engine_settings")
_FOR_SERVERS = ("api_key", "max_retries")


class SDAFields(FunctionCallingLLM):
    """An LLM with all of SDALLM's fields, and no method that answers yet.

    Raises:
        ConfigError: a field is unknown or out of range.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        default="smollm2-135m",
        min_length=1,
        frozen=True,
        description="An alias, a local folder or file, or a Hub id.",
    )
    engine: SkipJsonSchema[SkipValidation[Engine | None]] = Field(
        default=None,
        exclude=True,
        repr=False,
        frozen=True,
        description="An engine at hand, in place of `model`.",
    )
    base_url: str | None = Field(
        default=None, frozen=True, description="The root of a server's API, which answers in place of this process."
    )
    api_key: SkipJsonSchema[SecretStr | None] = Field(
        default=None, exclude=True, repr=False, frozen=True, description="The server's key; None means SDA_API_KEY."
    )
    max_retries: int | None = Field(
        default=None, frozen=True, description="How often a request is sent again to the server, see RemoteEngine."
    )
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit of a Hub model.")
    device: str = Field(default="auto", frozen=True, description="'auto', or a torch device.")
    dtype: str = Field(default="auto", frozen=True, description="'auto', 'float32', 'bfloat16' or 'float16'.")
    device_map: str | dict[str, int | str] | None = Field(
        default=None, frozen=True, description="A device map of transformers, in place of `device`."
    )
    quantization_config: object | None = Field(
        default=None, exclude=True, frozen=True, description="A quantization config of transformers."
    )
    adapters: dict[str, str] | None = Field(
        default=None, frozen=True, description="PEFT adapters: their names, and the folder or Hub id of each."
    )
    engine_settings: EngineSettings | None = Field(
        default=None, frozen=True, description="How the engine shares the machine between requests."
    )
    context_window: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that LlamaIndex may plan with; None means all that the model has.",
    )

    # Checked by Steering and Sampling, at construction and again with each call
    alignment: SkipValidation[AlignmentLike | None] = Field(
        default=None,
        description="A preset's name, an instruction, an Alignment, several with weights, or None for plain answers.",
    )
    policy: SkipValidation[Policy | None] = Field(
        default=None, description="How to steer: paper, budget or revise; overrides the one in `steering`."
    )
    evaluator: SkipJsonSchema[SkipValidation[Evaluator | None]] = Field(
        default=None, repr=False, description="Rates base responses; overrides the one in `steering`."
    )
    gain: SkipValidation[float | None] = Field(default=None, description="k; overrides the one in `steering`.")
    amplification: SkipValidation[float | None] = Field(
        default=None, description="A fixed amplification factor in [0, 1]; overrides the one in `steering`."
    )
    steering: SkipJsonSchema[SkipValidation[Steering | None]] = Field(
        default=None, repr=False, description="How to steer, in full."
    )
    temperature: SkipValidation[float | None] = Field(default=None, description="0 is greedy.")
    top_p: SkipValidation[float | None] = Field(default=None, description="Nucleus sampling, in (0, 1].")
    top_k: SkipValidation[int | None] = Field(default=None, description="Keep the most likely tokens.")
    min_p: SkipValidation[float | None] = Field(
        default=None, description="Keep tokens with at least this share of the best one's probability."
    )
    max_tokens: SkipValidation[int | None] = Field(default=None, description="The longest answer, in tokens.")
    max_reasoning_tokens: SkipValidation[int | None] = Field(
        default=None, description="The longest thought, in tokens; one that goes on is closed."
    )
    stop: SkipValidation[str | Sequence[str] | None] = Field(default=None, description="Strings that end the answer.")
    seed: SkipValidation[int | None] = Field(default=None, description="The same seed repeats the same answer.")
    logprobs: SkipValidation[int | None] = Field(
        default=None,
        description="How many top log-probabilities to return per token, after the chosen token's.",
    )
    timeout: SkipValidation[float | None] = Field(default=None, description="Seconds for a whole request.")
    template_kwargs: SkipValidation[Mapping[str, TemplateValue] | None] = Field(
        default=None, description="Values for variables of the model's chat template, e.g. {'enable_thinking': False}."
    )
    adapter: SkipValidation[str | None] = Field(
        default=None, description="The PEFT adapter to answer under; None for the model as it is."
    )

    _loaded: Engine | None = PrivateAttr(default=None)
    _lacking: str | None = PrivateAttr(default=None)  # of a written copy: the weights that it cannot load
    _resolved: tuple[object, Alignment | None] = PrivateAttr(default=(None, None))

    if not TYPE_CHECKING:  # type checkers keep the exact signature that pydantic synthesises from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**_named_after_engine(values))
            except ValidationError as error:
                raise wrong_field("SDALLM", error, type(self).model_fields) from error
            self.request_settings()
            if self.base_url is not None:
                self._connect(self.base_url)  # which checks what it is given, and opens nothing

    @field_validator("alignment", mode="before")
    @classmethod
    def _alignment_from_dict(cls, alignment: object) -> object:
        """One of several with weights, and of what `to_dict` made of one, for `from_dict`."""
        return alignment_of_field(alignment)

    @field_serializer("steering")
    def _describe_steering(self, steering: Steering | None) -> dict[str, object] | None:
        return None if steering is None else steering.describe()

    @field_serializer("evaluator")
    def _name_evaluator(self, evaluator: Evaluator | None) -> object:
        return None if evaluator is None else Steering(evaluator=evaluator).describe()["evaluator"]

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """LlamaIndex's, with what tells weights that were made in memory from others: caches are keyed by it."""
        return {**handler(self), "class_name": self.class_name(), **self._origin()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """What `to_dict` wrote down; `kwargs` are fields that come before it.

        Raises:
            ConfigError: an evaluator or a callable cannot be made from its name: give it in `kwargs`.
        """
        fields = {**data, **kwargs}
        lacking = fields.pop("weights_id", None)
        if "engine" in kwargs:
            fields.pop("base_url", None)  # of the one that was written down
        if isinstance(fields.get("evaluator"), str):
            fields["evaluator"] = restore_evaluator(fields["evaluator"], owner=cls.__name__)
        if isinstance(fields.get("steering"), Mapping):
            fields["steering"] = restore_steering(fields["steering"], owner=cls.__name__)
        again = super().from_dict(fields)
        again._lacking = lacking
        return again

    def __getstate__(self) -> dict[str, Any]:
        """Without the engine and the key: a pickled copy loads the model anew, by its name or from its server.

        Raises:
            ConfigError: the evaluator cannot be pickled; LlamaIndex would leave it out.
        """
        fields, lacking = ({}, self._lacking) if self.engine is None else describe_for_copy(self.engine)
        alone = self.model_copy(update={**fields, "engine": None, "api_key": None})
        alone._loaded, alone._lacking = None, lacking
        state: dict[str, Any] = super(SDAFields, alone).__getstate__()
        for name in ("evaluator", "steering", "quantization_config"):
            if name not in state["__dict__"]:
                raise ConfigError(
                    f"{name} cannot be pickled: leave it out of what is pickled, and give it to the copy."
                )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """LlamaIndex's, which begins with the fields alone."""
        super().__setstate__(state)
        self._lacking = (state["__pydantic_private__"] or {}).get("_lacking")

    def load(self) -> Engine:
        """The engine that answers; its model is loaded now if it was not yet.

        With a `base_url` the server is asked what it knows of the model.

        Raises:
            ModelLoadError: there is no such model, or the engine cannot run it.
            ConfigError: device or dtype is not available here, or the server refuses the key.
            ServerError: the server cannot be reached.
        """
        if self.engine is not None:
            return self.engine
        if self._lacking is not None:
            raise lacks_engine("SDALLM", self.model)
        if self._loaded is None or self._loaded.closed:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Engine:
        if self.base_url is None:
            loading = {name: getattr(self, name) for name in _LOADING}
            return SteeringEngine.load(**loading, settings=self.engine_settings)
        engine = self._connect(self.base_url)
        engine.connect()  # so that `metadata` need not wait for it later
        return engine

    def _connect(self, base_url: str) -> "RemoteEngine":
        return make_remote_engine(base_url, self.model, api_key=self.api_key, max_retries=self.max_retries)

    async def aload(self) -> Engine:
        """`load`, without blocking the event loop."""
        ready = self.engine or self._loaded
        return ready if ready is not None and not ready.closed else await asyncio.to_thread(self.load)

    def _origin(self) -> dict[str, Any]:
        """What tells the weights from others, where the model's name does not: the server, or what is in memory."""
        if (server := server_of(self.engine)) is not None:
            return {"base_url": server}
        engine = self.engine or self._loaded
        known = self._lacking if engine is None else engine.describe().get("weights_id")
        return {} if known is None else {"weights_id": known}

    def request_settings(self, call: Mapping[str, object] | None = None) -> RequestSettings:
        """What the fields ask of the engine, overridden by the `call_settings` around, and by one call's keywords.

        Raises:
            ConfigError: a keyword is unknown, or a value is out of range.
            ConstraintError: the schema of a tool or of the answer is too large.
        """
        fields = {name: getattr(self, name) for name in REQUEST_KEYWORDS}
        call = call or {}
        elsewhere = {*_FOR_REMOTE_MODELS, *OUTPUT_KEYWORDS}
        keywords = {name: value for name, value in call.items() if name not in elsewhere}
        layers = ({**fields, "alignment": self._own_alignment()}, *settings_around(), keywords)
        return replace(combine_settings(*layers, owner="SDALLM"), output=make_output(call))

    def _own_alignment(self) -> Alignment | None:
        """The field's alignment, resolved once, so that it is warned of once."""
        self._resolved = resolve_once(self.alignment, self._resolved)
        return self._resolved[1]


def _named_after_engine(values: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor values with a given engine's name as the model, so that copies and events can name it.

    Raises:
        ConfigError: `engine` is none, or one of it, `base_url` and settings for loading a model excludes another.
    """
    engine, base_url = values.get("engine"), values.get("base_url")
    if engine is None:
        loading = [name for name in _LOADING_HERE if values.get(name, _default(name)) != _default(name)]
        if base_url is not None:
            refuse_loading("SDALLM", str(base_url), loading)
        for name in _FOR_SERVERS:
            if base_url is None and values.get(name) is not None:
                raise ConfigError(f"{name} is for a server, and none is named: give base_url, or leave it out.")
        address = {"base_url": base_url.rstrip("/")} if isinstance(base_url, str) else {}  # as caches are to know it
        return {**values, **address}
    if not is_engine(engine):
        raise ConfigError(
            f"engine cannot be {shown(engine)}: it must be an engine, e.g. SteeringEngine.load() or RemoteEngine(...)."
        )
    for name in (*_FOR_SERVERS, "base_url"):
        if values.get(name) is not None:
            raise ConfigError(f"{name} has no effect on an engine that is at hand: leave out {name}, or `engine`.")
    for name in ("model", *_LOADING_HERE):
        legal = engine.name if name == "model" else _default(name)
        if values.get(name, legal) != legal:
            raise ConfigError(
                f"{name}={values[name]!r} has no effect on an engine that is loaded already: give it to "
                f"SteeringEngine.load, or leave out `engine`."
            )
    return {**values, "model": engine.name}


def _default(name: str) -> object:
    return SDAFields.model_fields[name].default
