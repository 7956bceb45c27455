"""The routes that answer: /v1/chat/completions, and /v1/completions for clients of the older kind."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from sda_engine.user_warnings import without_user_warnings
from sda_engine.wire.replies import ChatChunk, ChatReply
from sda_engine.wire.requests import ChatRequest, CompletionRequest
from sda_engine.wire.text_replies import TextReply
from sda_integrations.server.answering import AnswerResponse
from sda_integrations.server.asked import AskedAnswers, read_chat, read_completion
from sda_integrations.server.openapi import json_body, replies
from sda_integrations.server.service import Service, caller_of

_LONG = 64 * 1024  # bytes of a body that take a few ms to read


def answer_routes(service: Service) -> APIRouter:
    """The routes of a service whose answers are decoded."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", openapi_extra=json_body(ChatRequest), responses=_replies(ChatReply, ChatChunk))
    async def complete_chat(request: Request) -> Response:
        """Answer a chat, whole or as a stream of events."""
        return await _answer(request, read_chat, service)

    @routes.post(
        "/v1/completions", openapi_extra=json_body(CompletionRequest), responses=_replies(TextReply, TextReply)
    )
    async def complete(request: Request) -> Response:
        """Answer a prompt, or each of several, as the user's turn of a chat."""
        return await _answer(request, read_completion, service)

    return routes


async def _answer(request: Request, read: Callable[[bytes, Service], AskedAnswers], service: Service) -> Response:
    body = await request.body()
    with without_user_warnings():
        asked = await asyncio.to_thread(read, body, service) if len(body) > _LONG else read(body, service)
    request.scope["state"]["user"] = asked.user
    return AnswerResponse(asked, service, caller_of(request))


def _replies(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI tells of the replies."""
    data = f"A {chunk.__name__}, and at the end [DONE]; an ErrorReply where the stream breaks."
    event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "description": data}}}
    return replies(whole, content={"text/event-stream": {"itemSchema": event}})
