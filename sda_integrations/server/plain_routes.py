"""The routes that answer at once: models, presets, token counts, health, metrics and the page."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from sda_engine.wire.read_request import read_messages, read_tokenize_output
from sda_engine.wire.replies import ModelCard, ModelList, TokenizeReply
from sda_engine.wire.requests import TokenizeRequest
from sda_integrations.server.limits import check_count
from sda_integrations.server.openapi import json_body, replies
from sda_integrations.server.playground import playground_page
from sda_integrations.server.presets import PresetCard, PresetList
from sda_integrations.server.replies import error_response
from sda_integrations.server.service import Service, caller_of

_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def plain_routes(service: Service) -> APIRouter:
    """The routes of a service that need no decoding."""
    routes = APIRouter()

    @routes.get("/v1/models", responses=replies(ModelList))
    async def list_models() -> Response:
        """The models that requests may name, aliases included."""
        return json_response(ModelList(data=service.models.cards()))

    @routes.get("/v1/models/{model:path}", responses=replies(ModelCard))
    async def get_model(model: str) -> Response:
        """One of them."""
        return json_response(service.models.card(model))

    @routes.get("/v1/sda/presets", responses=replies(PresetList))
    async def list_presets() -> Response:
        """The alignments that have a name: the presets, and the server's own."""
        named = service.models.alignments
        return json_response(PresetList(data=[PresetCard.of(name, one) for name, one in named.items()]))

    @routes.post("/tokenize", openapi_extra=json_body(TokenizeRequest), responses=replies(TokenizeReply))
    async def tokenize(request: Request) -> Response:
        """Tokens of a text, or how many a chat becomes."""
        body, salt = await request.body(), caller_of(request).cache_salt
        return json_response(await asyncio.to_thread(_count, service, body, salt))

    @routes.get("/health", responses=replies())
    @routes.head("/health", include_in_schema=False)  # as some balancers ask
    async def health() -> Response:
        """Whether requests are answered: 503 where the server is ending, or its engine has stopped."""
        if service.draining.begun:
            return error_response(503, "The server is shutting down.", type="server_error", code="shutting_down")
        if not service.engine.alive:
            stopped = "The engine has stopped: start the server again."
            return error_response(503, stopped, type="server_error", code="engine_stopped")
        return Response('{"status":"ok"}', media_type="application/json")

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        """The playground."""
        playground = playground_page()
        policy = {"content-security-policy": playground.content_security_policy}
        return Response(playground.html, media_type="text/html", headers=policy)

    @routes.get("/metrics", response_class=Response, responses=replies(content=_TEXT))
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _count(service: Service, body: bytes, salt: str | None) -> TokenizeReply:
    """Tokens of what a body holds. It runs in a thread, since a long one takes seconds."""
    engine, limits = service.engine, service.settings.limits
    asked = TokenizeRequest.parse(body)
    if asked.model is not None:
        service.models.get(asked.model)
    if asked.prompt is not None:
        tokens = engine.encode(asked.prompt, cache_salt=salt)
        return TokenizeReply(count=len(tokens), max_model_len=engine.context_window, tokens=tuple(tokens))
    check_count("messages", len(asked.messages or ()), limits.messages)
    check_count("tools", len(asked.tools or ()), limits.tools)
    count = engine.count_prompt_tokens(
        read_messages(asked.messages or ()),
        output=read_tokenize_output(asked),
        template_kwargs={
            **service.defaults.settings.template_kwargs,
            **((asked.sda and asked.sda.template_kwargs) or {}),
        },
        cache_salt=salt,
    )
    return TokenizeReply(count=count, max_model_len=engine.context_window)


def json_response(reply: BaseModel) -> Response:
    """A reply as JSON, with whatever is None left out."""
    return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")
