"""The requests: OpenAI's chat completions and completions with the field `sda`, and the counting of tokens."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from sda_engine.errors import ConfigError
from sda_engine.wire.base import Asked, Several
from sda_engine.wire.openai_fields import CHAT_FIELDS, COMPLETION_FIELDS, without_ignorable
from sda_engine.wire.sda_field import SDAField, TemplateFields

JsonSchema = dict[str, Any]


class TextPart(Asked):
    """A text among others, or between pictures."""

    type: Literal["text"]
    text: str


class ImageAddress(Asked):
    """Where a picture is: in the address itself, as data:image/png;base64,... No other address is fetched."""

    url: str
    detail: Literal["auto"] | None = None


class ImagePart(Asked):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


def _kind_of_part(part: object) -> str | None:
    """Which kind of part something means to be; a text where it does not say, so that the error tells what is missing.

    None where it is of a kind that is not known.
    """
    kind = part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)
    return {"text": "TextPart", "image_url": "ImagePart"}.get(kind) if isinstance(kind, str) else "TextPart"


ContentPart = Annotated[
    Annotated[TextPart, Tag("TextPart")] | Annotated[ImagePart, Tag("ImagePart")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part_type",
        custom_error_message="Input should be of the type 'text' or 'image_url'",
    ),
]


class CalledFunction(Asked):
    """What an earlier answer called: a function's name, and the JSON text of its arguments."""

    name: str
    arguments: str


class EarlierCall(Asked):
    """A call in an earlier answer. `index` is what clients keep of a stream: the order of the calls says it."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Asked):
    """A turn of the chat. The last four fields are those that OpenAI's own objects have and leave empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[ContentPart] | None = None
    name: str | None = None
    tool_calls: Several[EarlierCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[None] | None = Field(default=None, max_length=0)


class Function(Asked):
    """A function that the model may call, with the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class FunctionTool(Asked):
    """A tool. Functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(Asked):
    """The name of a function."""

    name: str


class NamedTool(Asked):
    """The choice of one function."""

    type: Literal["function"]
    function: FunctionName


class NamedSchema(Asked):
    """The JSON schema of an answer.

    Attributes:
        name: any; nothing is told of it.
        description: what the model is told of the schema beside it, where the schema has no description of its own.
        json_schema: the schema.
        strict: whether it is refused where a grammar cannot enforce all of it.
    """

    name: str
    description: str | None = None
    json_schema: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Asked):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ConfigError(
                "response_format cannot be without its schema, or have one of another type: it must be {'type': "
                "'json_schema', 'json_schema': {'name': ..., 'schema': {...}}}, {'type': 'json_object'} or {'type': "
                "'text'}.",
                field="response_format",
            )
        return self


class StreamOptions(Asked):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class FormFields(Asked):
    """What decides the form of an answer, and what the prompt tells of it."""

    tools: Several[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


class SampledFields(Asked):
    """What chat completions and completions share: the model, how to sample, and how to answer."""

    model: str = Field(min_length=1)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = Field(default=None, ge=1)
    stop: str | Several[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    sda: SDAField | None = None

    @model_validator(mode="after")
    def _tells_how_to_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ConfigError(
                "stream_options say how to stream, and stream is not true: leave them out, or set it.",
                field="stream_options",
            )
        return self


class ChatRequest(SampledFields, FormFields):
    """The body of POST /v1/chat/completions.

    `openai_fields.CHAT_FIELDS` tells what becomes of each of OpenAI's fields.
    """

    messages: Several[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=100)
    reasoning_effort: str | None = None
    safety_identifier: str | None = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The request that plain data means.

        Raises:
            ConfigError: a field is missing, unknown, out of range, or one that cannot be honoured.
        """
        return super().of(without_ignorable(given, CHAT_FIELDS))

    @classmethod
    def _example(cls) -> str:
        return '{"model": "...", "messages": [{"role": "user", "content": "..."}]}'

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        lengths = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(lengths) > 1:
            raise ConfigError(
                f"max_tokens={self.max_tokens} and max_completion_tokens={self.max_completion_tokens} are the same "
                f"limit: give one of the two.",
                field="max_completion_tokens",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise ConfigError(
                f"top_logprobs={self.top_logprobs} needs log-probabilities: set logprobs to true.", field="top_logprobs"
            )
        return self


class CompletionRequest(SampledFields):
    """The body of POST /v1/completions. A prompt becomes the user turn of a chat."""

    prompt: str | Annotated[Several[str], Field(min_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The request that plain data means; errors as for ChatRequest."""
        return super().of(without_ignorable(given, COMPLETION_FIELDS))

    @classmethod
    def _example(cls) -> str:
        return '{"model": "...", "prompt": "..."}'


class TokenizeRequest(FormFields):
    """The body of POST /tokenize: a text, or a chat that is rendered first, with what its answer may be."""

    model: str | None = None
    prompt: str | None = None
    messages: Several[ChatMessage] | None = None
    sda: TemplateFields | None = None

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ConfigError("The request must have either a prompt or messages.", field="prompt")
        forms = [name for name in FormFields.model_fields if getattr(self, name) is not None]
        if self.sda is not None and self.sda.model_fields_set:  # an empty one says who is to answer, see vLLM
            forms.append("sda")
        if self.prompt is not None and forms:
            raise ConfigError(
                f"{forms[0]} changes how a chat is rendered, and prompt is a text: leave it out, or send messages.",
                field=forms[0],
            )
        return self

    @classmethod
    def _example(cls) -> str:
        return '{"prompt": "..."}'
