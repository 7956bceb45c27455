"""SDAMiddleware: what answers requests with the field `sda` in vLLM's server. Pure ASGI; all else is vLLM's.

The requests that are ours are answered by the application of `sda serve`, over an engine whose tokens vLLM decodes.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.renderers.chat_utils import load_chat_template

from sda_engine.engine_settings import EngineSettings
from sda_integrations.server import make_app
from sda_integrations.server.keys import ApiKeys, RequireKey
from sda_integrations.server.settings import ServerSettings
from sda_integrations.vllm.client import VLLMClient, read_model
from sda_integrations.vllm.engine import VLLMEngine
from sda_integrations.vllm.handed_over import HandedOver
from sda_integrations.vllm.task_runner import TaskRunner

_MOST_REQUESTS = 4096  # that are taken on at a time, in each process of the server; vLLM lets wait what does not run
_ANSWERS = ("/v1/chat/completions", "/v1/completions", "/tokenize")
_MODELS = "/v1/models"
_OURS = (_MODELS, "/v1/sda/presets")


class SDAMiddleware:
    """Answers what is ours, and hands all else on to vLLM.

    Ours are requests for answers that have the field `sda`, that name an alias MODEL:ALIGNMENT, that a default
    alignment of the server is for, or that ask for log-probabilities, since this server's vLLM tells those of its
    sampler; and the list of models.

    Args:
        app: vLLM's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._vllm = app
        self._parts: _Parts | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._vllm(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == _MODELS and scope["method"] == "GET":
            await list_models((await self._made(scope["app"])).ours, self._vllm, scope, receive, send)
        elif path.startswith(_OURS) and scope["method"] in ("GET", "HEAD"):
            await (await self._made(scope["app"])).ours(scope, receive, send)
        elif path in _ANSWERS and scope["method"] == "POST":
            parts = await self._made(scope["app"])
            scope.setdefault("state", {})
            await parts.shared(scope, receive, send)
        else:
            await self._vllm(scope, receive, send)

    async def _made(self, vllm: Any) -> "_Parts":
        """Our part, made with the first request, when vLLM's engine has started."""
        async with self._lock:
            if self._parts is None:
                settings, engine = await asyncio.to_thread(_make, vllm.state)
                self._parts = _Parts.of(make_app(engine, settings), self._vllm, settings)
            return self._parts


@dataclass(frozen=True)
class _Parts:
    """Our part of the server.

    Attributes:
        ours: our application.
        shared: the routes that it has in common with vLLM. A key is asked for before anything is read.
    """

    ours: ASGIApp
    shared: ASGIApp

    @classmethod
    def of(cls, ours: ASGIApp, vllm: ASGIApp, settings: ServerSettings) -> "_Parts":
        """Our part, beside vLLM's application."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            begun = _Begun(receive)
            body = await begun.body(settings.limits.body_bytes)
            is_ours = body is None or _is_ours(body, scope["path"], settings)
            await (ours if is_ours else vllm)(scope, begun.replayed, send)

        return cls(ours, RequireKey(answer, ApiKeys(settings.api_keys)))


async def list_models(ours: ASGIApp, vllm: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with our list of models, and behind it what vLLM lists beside: LoRAs, by their own names."""
    told, others = _Reply(), _Reply()
    await ours({**scope}, receive, told.take)  # an application of FastAPI puts itself into the scope
    if told.status == 200:
        await vllm(scope, receive, others.take)
    if others.status != 200:
        for message in told.messages:
            await send(message)
        return
    models = from_json(told.body)
    known = {model["id"] for model in models["data"]}
    models["data"] += [model for model in from_json(others.body)["data"] if model["id"] not in known]
    await JSONResponse(models)(scope, receive, send)


class _Reply:
    """What an application answers, kept."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def take(self, message: Message) -> None:
        """The next message of it."""
        self.messages.append(message)

    @property
    def status(self) -> int | None:
        """Its status; None before there is one."""
        return next((message["status"] for message in self.messages if "status" in message), None)

    @property
    def body(self) -> bytes:
        """Its body."""
        return b"".join(message.get("body", b"") for message in self.messages)


class _Begun:
    """A request whose body has been read, to be read once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []

    async def body(self, most: int) -> bytes | None:
        """The whole body; None where it is too long, or the client has gone."""
        parts, length = [], 0
        while length <= most:
            message = await self._receive()
            self._read.append(message)
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if not message.get("more_body", False):
                return b"".join(parts)
        return None

    async def replayed(self) -> Message:
        """What was read, and then what comes."""
        return self._read.pop(0) if self._read else await self._receive()


def _is_ours(body: bytes, path: str, settings: ServerSettings) -> bool:
    """Whether a request is for us to answer. What cannot be read here is: vLLM must not read it without `sda`."""
    try:
        given = from_json(body)
    except ValueError:
        return True
    if not isinstance(given, dict):
        return True
    if given.get("sda") is not None:
        return True
    if not path.endswith("/chat/completions"):
        return False
    model = given.get("model")
    aliased = isinstance(model, str) and model.startswith(f"{settings.served_model_name}:")
    return aliased or bool(given.get("logprobs")) or settings.alignment is not None


def _make(state: Any) -> tuple[ServerSettings, VLLMEngine]:
    """Our settings, and an engine over vLLM's."""
    settings = HandedOver.from_env().server_settings()
    given = getattr(state.args, "chat_template", None)
    model = read_model(state.vllm_config, load_chat_template(given) if given else None, _MOST_REQUESTS)
    engine = VLLMEngine(
        model.facts,
        TaskRunner(VLLMClient(state.engine_client), model.limits),
        vocab_size=model.vocab_size,
        place=model.place,
        cache_tokens=model.limits.tokens,
        settings=EngineSettings(max_requests=_MOST_REQUESTS),
    )
    return settings, engine
