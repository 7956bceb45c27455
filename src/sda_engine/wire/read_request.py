"""What a request asks of an engine: the server's half of the wire format, on the way in."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from sda_engine.alignment import Alignment, resolve_alignment
from sda_engine.choosing import Revision
from sda_engine.config import Sampling, Steering
from sda_engine.errors import ConfigError, MessageError, SDAError
from sda_engine.evaluators.protocol import Evaluator
from sda_engine.output import Constraint, Output, Tool
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import Settings
from sda_engine.wire.requests import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    FormFields,
    NamedTool,
    ResponseFormat,
    SampledFields,
    TokenizeRequest,
)
from sda_engine.wire.sda_field import SDAField

Message = dict[str, object]
EvaluatorNamed = Callable[[str], Evaluator]
"""The evaluator that a server knows by a name; raises ConfigError for a name that it does not know."""

_NAMED_EVALUATORS = ("evaluator", "chooser")
_OTHERS = ("timeout", "adapter")
_OPENAI_NAMES = {"max_new_tokens": "max_tokens", "logprobs": "top_logprobs"}  # of Sampling's fields
_SAMPLING_IN_SDA = ("top_k", "min_p", "max_reasoning_tokens")


@dataclass(frozen=True)
class ServerDefaults:
    """What requests of a server are laid over.

    Attributes:
        settings: alignment, steering, sampling and the rest, where a request says nothing.
        alignments: alignments by name, beside the presets.
        evaluator: finds evaluators by name.
    """

    settings: RequestSettings
    evaluator: EvaluatorNamed
    alignments: Mapping[str, Alignment] = field(default_factory=dict)


def read_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The chat for the engine.

    Raises:
        MessageError: the arguments of an earlier call are no JSON object.
    """
    return [_read_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def read_chat_settings(request: ChatRequest, defaults: ServerDefaults) -> RequestSettings:
    """What a request asks for beside its messages, laid over the server's defaults key by key.

    What the defaults say of steering is left out where the request's own alignment leaves it no effect.
    `reasoning_effort` is not looked at: what it means, only the model can tell.

    Raises:
        ConfigError: a value is out of range, a name is unknown, or two fields exclude each other; `field` is its path.
        ConstraintError: a schema is too large.
    """
    top = request.top_logprobs if request.top_logprobs is not None else 0
    sampling = {"logprobs": top if request.logprobs else None, **_sampling(request)}
    if request.max_completion_tokens is not None:
        sampling["max_new_tokens"] = request.max_completion_tokens
    return replace(_read_settings(request, defaults, sampling), output=read_output(request, request.sda))


def read_completion_settings(request: CompletionRequest, defaults: ServerDefaults) -> RequestSettings:
    """The same of a completion; errors as for a chat."""
    settings = _read_settings(request, defaults, {"logprobs": request.logprobs, **_sampling(request)})
    return replace(settings, output=read_output(FormFields(), request.sda))


def read_tokenize_output(request: TokenizeRequest) -> Output:
    """The form of the answer that a counted prompt tells of; errors as for a chat."""
    told = request.sda
    sda = None if told is None else SDAField(schema_in_prompt=told.schema_in_prompt, strict=told.strict)
    return read_output(request, sda)


def read_output(request: FormFields, sda: SDAField | None) -> Output:
    """The form of the answer that a request asks for.

    Raises:
        ConfigError, ConstraintError: it cannot be had; `field` of the first tells where it is asked for.
    """
    said = sda or SDAField()
    with _within("tools"):
        tools = tuple(
            Tool(
                name=tool.function.name,
                description=tool.function.description or "",
                **({} if tool.function.parameters is None else {"parameters": tool.function.parameters}),
            )
            for tool in request.tools or ()
        )
    constraint = _read_constraint(request.response_format, said)
    choice = request.tool_choice
    named = {"parallel_tool_calls": request.parallel_tool_calls, "schema_in_prompt": said.schema_in_prompt}
    with _within("", {"constraint": "response_format", "schema_in_prompt": "sda.schema_in_prompt"}):
        return Output(
            tools=tools,
            tool_choice=choice.function.name if isinstance(choice, NamedTool) else choice or "auto",
            constraint=constraint,
            strict=_is_strict(request) if said.strict is None else said.strict,
            **{name: value for name, value in named.items() if value is not None},
        )


def read_alignment(given: object, alignments: Mapping[str, Alignment]) -> Alignment | None:
    """The alignment that the value of `sda.alignment` means.

    Args:
        given: a name, an instruction, an object, several of these with weights, or None for a plain answer.
        alignments: the server's own, by name.

    Raises:
        ConfigError: it means none.
    """
    with _within("sda.alignment"):
        if isinstance(given, str):
            return alignments.get(given) or resolve_alignment(given)
        if isinstance(given, Mapping):
            if not _has_weights(given):
                return Alignment.of_values(given)
            given = list(given.items())
        if isinstance(given, Sequence):
            return Alignment.combine([_read_part(pair, alignments) for pair in given])
        return resolve_alignment(given)


def _has_weights(given: Mapping[str, object]) -> bool:
    """Whether an object is alignments with their weights, and not one alignment, which holds no number."""
    return any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given.values())


def _read_part(pair: object, alignments: Mapping[str, Alignment]) -> tuple[Alignment | str, float]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ConfigError('An alignment among several must be a pair with its weight, as in ["honesty", 1.0].')
    part, weight = pair
    alignment = read_alignment(part, alignments) if isinstance(part, (str, Mapping)) else part
    return alignment, weight  # type: ignore[return-value]  # Alignment.combine checks both


def _read_settings(request: SampledFields, defaults: ServerDefaults, sampling: Mapping[str, object]) -> RequestSettings:
    said = request.sda or SDAField()
    base = defaults.settings
    alignment = (
        read_alignment(said.alignment, defaults.alignments) if "alignment" in said.model_fields_set else base.alignment
    )
    others = {name: getattr(said, name) for name in _OTHERS if name in said.model_fields_set}
    with _within("sda"):
        steering = _steering(said, defaults.evaluator)
        chosen = base.steering.replace(**steering)
        idle = [name for name in chosen.idle_for(alignment) if name not in steering]
        settings = replace(
            base,
            alignment=alignment,
            steering=chosen.without(idle),
            template_kwargs={**base.template_kwargs, **(said.template_kwargs or {})},
            **others,
        )
    in_sda = {name: f"sda.{name}" for name in _SAMPLING_IN_SDA}
    with _within("", {**_OPENAI_NAMES, **in_sda}):
        return replace(settings, sampling=base.sampling.replace(**sampling))


def _sampling(request: SampledFields) -> dict[str, object]:
    """What a request says of sampling, by the names of Sampling; null says nothing, but for those in `sda`."""
    said = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_new_tokens": request.max_tokens,
        "stop": request.stop,
        "seed": request.seed,
    }
    given = {name: value for name, value in said.items() if value is not None}
    sda = request.sda
    return {**given, **({} if sda is None else _given(sda, _SAMPLING_IN_SDA, Sampling))}


def _steering(said: SDAField, evaluator: EvaluatorNamed) -> dict[str, object]:
    """What `sda` says of Steering, by the names of its fields."""
    given = _given(said, Steering.model_fields, Steering)
    for name in _NAMED_EVALUATORS:
        if isinstance(known_as := given.get(name), str):
            with _within(f"sda.{name}", whole=True):
                given[name] = evaluator(known_as)
    if said.revisions is not None:
        with _within("sda.revisions"):
            revisions = [Revision.of_values(one.model_dump(exclude_unset=True)) for one in said.revisions]
        given["revisions"] = revisions
    return given


def _given(said: SDAField, names: Iterable[str], kind: type[Settings]) -> dict[str, object]:
    """The fields that were given, those left out whose null says nothing: where Python's field is never None."""
    given = {name: getattr(said, name) for name in names if name in said.model_fields_set}
    return {
        name: value
        for name, value in given.items()
        if value is not None or kind.model_fields[name].get_default(call_default_factory=True) is None
    }


def _read_message(message: ChatMessage, where: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    read: Message = {"role": role, "content": ""}
    if isinstance(content, str):
        read["content"] = content
    elif content is not None:
        read["content"] = [part.model_dump() for part in content]
    kept = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
    }
    read |= {name: value for name, value in kept.items() if value is not None}
    if message.tool_calls:
        read["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": call.function.name,
                    "arguments": _read_arguments(call.function.arguments, f"{where}.tool_calls[{place}]"),
                },
            }
            for place, call in enumerate(message.tool_calls)
        ]
    return read


def _read_arguments(text: str, where: str) -> dict[str, object]:
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise MessageError(
            f"{where} has arguments that are no JSON: {error}. Send the text that the answer had, or '{{}}'."
        ) from error
    if not isinstance(arguments, dict):
        raise MessageError(
            f"{where} has arguments that are no JSON object: send the text that the answer had, or '{{}}'."
        )
    return arguments


def _read_constraint(form: ResponseFormat | None, said: SDAField) -> Constraint | None:
    asked = form is not None and form.type != "text"
    if said.constraint is None:
        if not asked or form is None:
            return None
        with _within("response_format", whole=True):
            schema = {"type": "object"} if form.json_schema is None else form.json_schema.json_schema
            return Constraint.json_schema(schema)
    given = said.constraint.model_dump(exclude_none=True)
    if asked or len(given) != 1:
        raise ConfigError(
            "sda.constraint must be one of regex and lark, and stands alone: it and response_format both say what the "
            "text must look like. Give one of them.",
            field="sda.constraint",
        )
    with _within("sda.constraint", whole=True):
        ((kind, source),) = given.items()
        return Constraint.regex(source) if kind == "regex" else Constraint.lark(source)


def _is_strict(request: FormFields) -> bool:
    """Whether a format or a tool says `strict`."""
    form = request.response_format
    formats = [form.json_schema.strict] if form is not None and form.json_schema is not None else []
    return any(given is True for given in (*formats, *(tool.function.strict for tool in request.tools or ())))


@contextmanager
def _within(path: str, names: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Iterator[None]:
    """Around the making of settings: errors name the field of the request in place of the setting.

    Args:
        path: where the settings stand in the request; "" for its top.
        names: what settings are called there, where they have another name or stand elsewhere.
        whole: whether the path says it all, and the setting's own name is of no use.
    """
    try:
        yield
    except SDAError as error:
        inner = error.field
        if inner is None or not inner.startswith("sda."):  # else it was told further in
            name = None if whole or inner is None else names.get(inner, inner)
            error.field = ".".join(step for step in (path, name) if step) or None
        raise
