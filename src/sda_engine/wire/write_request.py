"""What is asked of a server: the client's half of the wire format, on the way out."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence

from sda_engine.alignment import Alignment
from sda_engine.choosing import Revision
from sda_engine.contents import read_pictures
from sda_engine.errors import ConfigError, MessageError
from sda_engine.evaluators.protocol import Evaluator
from sda_engine.output import TOOL_CHOICES, Constraint, Output
from sda_engine.pictures import Picture, PictureLimits
from sda_engine.prompts import Message, normalise_messages
from sda_engine.request_settings import RequestSettings
from sda_engine.wire.sda_field import SAMPLING_FIELDS
from sda_engine.wire.server_evaluator import known_name

_OPENAI_NAMES = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens", "seed": "seed"}
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair
_LIMITS = PictureLimits(most=1_000, pixels=10**9, bytes=10**9)  # the server has its own


def write_chat_request(
    model: str, messages: Sequence[Message], settings: RequestSettings, *, trace: bool = False
) -> dict[str, object]:
    """The body of POST /v1/chat/completions, but for `stream`.

    Args:
        model: the name that the server knows it by.
        messages: as for SteeringEngine.generate.
        settings: what is asked for; only what was given is sent, and the server's defaults stand for the rest.
        trace: whether to ask for what steering did at each token.

    Raises:
        MessageError: the messages are malformed.
        ConfigError: a setting cannot be sent: a callable, an evaluator that no server knows, or a text that is none.
    """
    sampling = settings.sampling.given()
    body: dict[str, object] = {"model": model, "messages": write_messages(messages), **write_output(settings.output)}
    body |= {sent: sampling[name] for name, sent in _OPENAI_NAMES.items() if name in sampling}
    if body.get("top_p", 1.0) is None:
        body["top_p"] = 1.0  # null would leave the server's default
    if "stop" in sampling:
        body["stop"] = list(settings.sampling.stop)
    if (top := settings.sampling.logprobs) is not None:
        body |= {"logprobs": True, "top_logprobs": top}
    return {**body, "sda": write_sda_field(settings, trace=trace)}


def write_sda_field(settings: RequestSettings, *, trace: bool = False) -> dict[str, object]:
    """The field `sda` of that body.

    Raises:
        ConfigError: as for `write_chat_request`.
    """
    sampling = settings.sampling.given()
    sda: dict[str, object] = {"alignment": write_alignment(settings.alignment), "token_ids": True}
    sda |= _write_steering(settings)
    sda |= {name: sampling[name] for name in SAMPLING_FIELDS if name in sampling}
    others = {
        "template_kwargs": dict(settings.template_kwargs),
        "adapter": settings.adapter,
        "timeout": settings.timeout,
    }
    sda |= {name: value for name, value in others.items() if value}
    sda |= _write_form(settings.output)
    if trace:
        sda["trace"] = True
    _check_texts(sda, "sda")
    return sda


def write_tokenize_request(
    model: str, messages: Sequence[Message], output: Output, template_kwargs: Mapping[str, object]
) -> dict[str, object]:
    """The body of POST /tokenize for a chat. Where vLLM has a route of that name too, `sda` says that ours is meant."""
    form = _write_form(output)
    sda: dict[str, object] = {name: form[name] for name in ("schema_in_prompt", "strict") if name in form}
    if template_kwargs:
        sda["template_kwargs"] = dict(template_kwargs)
    body = {"model": model, "messages": write_messages(messages), **write_output(output)}
    return {**body, "sda": sda}


def read_chat(messages: Sequence[Message]) -> list[Message]:
    """The chat, normalised and with its pictures read, as an engine shows it to evaluators.

    Raises:
        MessageError: the messages are malformed, or a picture cannot be read.
    """
    return read_pictures(normalise_messages(messages), _LIMITS)


def write_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """The chat in OpenAI's form: calls with the text of their arguments, pictures as data URLs.

    Raises:
        MessageError: the messages are malformed, a picture cannot be read, or a text is none that can be sent.
    """
    written = [_write_message(message) for message in read_chat(messages)]
    for place, message in enumerate(written):
        _check_texts(message, f"messages[{place}]")
    return written


def write_output(output: Output) -> dict[str, object]:
    """The form of an answer, as far as OpenAI's fields say it."""
    body: dict[str, object] = {}
    if output.tools:
        choice = output.tool_choice
        plain = "required" if choice == "any" else choice
        body["tools"] = [tool.as_function() for tool in output.tools]
        body["tool_choice"] = plain if choice in TOOL_CHOICES else {"type": "function", "function": {"name": choice}}
        body["parallel_tool_calls"] = output.parallel_tool_calls
    if (constraint := output.constraint) is not None and constraint.kind == "json_schema":
        schema = json.loads(constraint.given or constraint.source)
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return body


def write_alignment(alignment: Alignment | None) -> object:
    """An alignment as `sda.alignment` has it; None for a plain answer."""
    if alignment is None:
        return None
    return alignment.model_dump(mode="json", exclude_none=True)


def _write_steering(settings: RequestSettings) -> dict[str, object]:
    written: dict[str, object] = {}
    for name, value in settings.steering.given().items():
        if isinstance(value, Evaluator):
            written[name] = known_name(value, name)
        elif callable(value):
            raise ConfigError(
                f"Steering.{name} is a function of this process, which cannot be sent to a server: name one of those "
                f"that the engine has.",
                field=name,
            )
        elif name == "revisions" and isinstance(value, tuple):
            written[name] = [
                one.model_dump(mode="json", exclude_unset=True) for one in value if isinstance(one, Revision)
            ]
        else:
            written[name] = list(value) if isinstance(value, tuple) else value
    return written


def _write_form(output: Output) -> dict[str, object]:
    """What of the form of an answer OpenAI has no field for."""
    form: dict[str, object] = {}
    if not output.schema_in_prompt:
        form["schema_in_prompt"] = False
    if output.strict:
        form["strict"] = True
    constraint: Constraint | None = output.constraint
    if constraint is not None and constraint.kind != "json_schema":
        form["constraint"] = {constraint.kind: constraint.source}
    return form


def _write_message(message: Message) -> dict[str, object]:
    written = {**message, "content": _write_content(message["content"])}
    calls = message.get("tool_calls")
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        written["tool_calls"] = [_write_call(call) for call in calls]
    return written


def _write_content(content: object) -> object:
    if isinstance(content, str) or not isinstance(content, Sequence):
        return content
    return [_write_part(part) for part in content]


def _write_part(part: Mapping[str, object]) -> dict[str, object]:
    picture = part.get("picture")
    if not isinstance(picture, Picture):
        return dict(part)
    file = io.BytesIO()
    picture.image.save(file, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _write_call(call: object) -> object:
    if not isinstance(call, Mapping):
        return call
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call_id = call.get("id")
    return {
        "type": "function",
        **({} if call_id is None else {"id": str(call_id)}),
        "function": {"name": function.get("name"), "arguments": text},
    }


def _check_texts(value: object, where: str) -> None:
    """Refuse texts with half a character, which UTF-8 cannot write.

    Raises:
        MessageError, ConfigError: there is one; the first of them where it is in a message.
    """
    if isinstance(value, str):
        if value.isascii() or not (half := _HALF.search(value)):
            return
        kind = ConfigError if where.startswith("sda") else MessageError
        raise kind(
            f"{where} holds half a surrogate pair, {half[0]!a}, which is no character and cannot be sent: decode the "
            f"text with errors='replace'."
        )
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_texts(inner, f"{where}.{name}")
    elif isinstance(value, Sequence):
        for place, inner in enumerate(value):
            _check_texts(inner, f"{where}[{place}]")
