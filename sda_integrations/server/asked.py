"""What a request for answers asks for: of the engine, and of the reply."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import uuid4

from pydantic import BaseModel

from sda_engine.adapting import reasoning_variables, settings_of_each
from sda_engine.engine import SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.request_settings import RequestSettings
from sda_engine.results import Completion, Piece, Usage
from sda_engine.wire.read_request import read_chat_settings, read_completion_settings, read_messages
from sda_engine.wire.requests import ChatRequest, CompletionRequest, SampledFields
from sda_engine.wire.write_reply import ReplyWriter
from sda_engine.wire.write_text_reply import TextReplyWriter
from sda_integrations.server.limits import check_count
from sda_integrations.server.service import Service

_LONGEST_USER = 128  # characters, in the log


class Writer(Protocol):
    """Writes the reply of a route."""

    def reply(self, completions: Sequence[Completion]) -> BaseModel:
        """The whole reply."""

    def first_chunk(self, index: int) -> BaseModel | None:
        """The chunk that begins an answer; None where none does."""

    def chunk(self, index: int, piece: Piece) -> BaseModel | None:
        """The chunk of one piece; None where there is nothing in it to tell."""

    def usage_chunk(self, usages: Sequence[Usage]) -> BaseModel:
        """The chunk that tells the token counts of all answers."""


@dataclass(frozen=True)
class AskedAnswer:
    """One answer that is asked for.

    Attributes:
        messages: the chat.
        settings: all else that the engine is asked for.
    """

    messages: Sequence[Mapping[str, object]]
    settings: RequestSettings


@dataclass(frozen=True)
class AskedAnswers:
    """What one request asks for.

    Attributes:
        answers: each of them, in the order of the reply.
        writer: writes the reply.
        stream: whether it is a stream.
        tells_usage: whether the stream tells token counts.
        details: whether the reply tells of each token, which takes long to write.
        evaluator: who rates, as the request or the server's settings name it.
        user: for whom the client asks, as it says, for the log; None where it does not say.
    """

    answers: Sequence[AskedAnswer]
    writer: Writer
    stream: bool
    tells_usage: bool
    details: bool
    evaluator: str
    user: str | None


def read_chat(body: bytes, service: Service) -> AskedAnswers:
    """What the body of a request for chat completions asks for.

    Raises:
        ConfigError, MessageError, ConstraintError: it is malformed, or asks for more than the server gives.
        RefusalError: the server has no such model.
    """
    request = ChatRequest.parse(body)
    defaults = service.defaults_of(service.models.get(request.model))
    limits = service.settings.limits
    check_count("messages", len(request.messages), limits.messages)
    check_count("tools", len(request.tools or ()), limits.tools)
    n = _count_answers(request, service)
    if request.sda is not None and request.sda.trace and not service.engine.tells_traces:
        raise ConfigError(
            "sda.trace cannot be true: this server's engine tells nothing of single tokens but their "
            "log-probabilities. Leave it out, or ask `sda serve`.",
            field="sda.trace",
        )
    settings = read_chat_settings(request, defaults)
    if request.reasoning_effort is not None:
        settings = _with_effort(settings, request, service.engine)
    messages = read_messages(request.messages)
    answers = [AskedAnswer(messages, each) for each in settings_of_each(settings, n)]
    return _asked(request, answers, _writer("chatcmpl", request, n, service), service, request.safety_identifier)


def read_completion(body: bytes, service: Service) -> AskedAnswers:
    """What the body of a request for completions asks for; errors as for a chat."""
    request = CompletionRequest.parse(body)
    defaults = service.defaults_of(service.models.get(request.model))
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    check_count("prompt", len(prompts), service.settings.limits.prompts)
    n = _count_answers(request, service, prompts=len(prompts))
    settings = settings_of_each(read_completion_settings(request, defaults), n)
    answers = [AskedAnswer([{"role": "user", "content": prompt}], each) for prompt in prompts for each in settings]
    writer = TextReplyWriter(_writer("cmpl", request, len(answers), service), answers=n)
    return _asked(request, answers, writer, service, None)


def _count_answers(request: SampledFields, service: Service, prompts: int = 1) -> int:
    """How many answers there shall be to each prompt.

    Raises:
        ConfigError: the request asks for too many, or has too many stop texts.
    """
    limits = service.settings.limits
    check_count("stop", len(request.stop) if isinstance(request.stop, list) else 0, limits.stops)
    n, most = request.n or 1, max(limits.n // prompts, 1)
    if n > most:
        each = "" if prompts == 1 else f" to each of {prompts} prompts"
        raise ConfigError(
            f"n cannot be {n}: this server gives {most} answers at most{each}. Ask for fewer, or in several requests.",
            field="n",
        )
    return n


def _with_effort(settings: RequestSettings, request: ChatRequest, engine: SteeringEngine) -> RequestSettings:
    """The settings with what reasoning_effort means for the model; variables that `sda` sets come before it.

    Raises:
        ConfigError: it means nothing for it.
    """
    effort = reasoning_variables(
        request.reasoning_effort,
        engine.template_variables,
        thinks=engine.thinks,
        owner="reasoning_effort",
        others="sda.template_kwargs",
    )
    said = request.sda.template_kwargs if request.sda is not None else None
    return replace(settings, template_kwargs={**settings.template_kwargs, **effort, **(said or {})})


def _writer(kind: str, request: SampledFields, choices: int, service: Service) -> ReplyWriter:
    return ReplyWriter(
        id=f"{kind}-{uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        trace=request.sda is not None and request.sda.trace,
        token_ids=request.sda is not None and request.sda.token_ids,
        choices=choices,
        evaluator_name=service.evaluators.public_name,
    )


def _asked(
    request: ChatRequest | CompletionRequest,
    answers: Sequence[AskedAnswer],
    writer: Writer,
    service: Service,
    safety: str | None,
) -> AskedAnswers:
    options = request.stream_options
    named = request.sda.evaluator if request.sda is not None else None
    users = [said for said in dict.fromkeys((request.user, safety)) if said]
    return AskedAnswers(
        answers=answers,
        writer=writer,
        stream=bool(request.stream),
        tells_usage=options is not None and bool(options.include_usage),
        details=bool(request.logprobs) or (request.sda is not None and request.sda.trace),
        evaluator=named or service.settings.evaluator or "default",
        user=" / ".join(users)[:_LONGEST_USER] or None,
    )
