"""Which requests our application answers in vLLM's server, and which vLLM does."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from sda_integrations.server.settings import ServerLimits, ServerSettings
from sda_integrations.vllm.middleware import SDAMiddleware, _Parts

CHAT = {"model": "served", "messages": [{"role": "user", "content": "Hello"}]}


class Echo:
    """An application that says its name and the body that it was sent."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([self._name, body.decode("latin-1")]).encode()})


def middleware(**settings: Any) -> SDAMiddleware:
    vllm = Echo("vllm")
    made = SDAMiddleware(vllm)
    made._parts = _Parts.of(Echo("sda"), vllm, ServerSettings(served_model_name="served", **settings))
    return made


async def who(
    app: SDAMiddleware, path: str, body: bytes | dict[str, Any] | None, pieces: int = 1, key: str | None = None
) -> str:
    content = json.dumps(body).encode() if isinstance(body, dict) else body

    async def sent() -> AsyncIterator[bytes]:
        assert content is not None
        size = -(-len(content) // pieces)
        for start in range(0, len(content), size):
            yield content[start : start + size]

    async def with_app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = None
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_app), base_url="http://server") as client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        reply = await (
            client.get(path, headers=headers) if content is None else client.post(path, content=sent(), headers=headers)
        )
    if reply.status_code != 200:
        return f"{reply.status_code}"
    name, got = reply.json()
    assert got == ("" if content is None else content.decode("latin-1")), "whoever answers gets the whole body"
    return str(name)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", CHAT, "vllm"),
        ("/v1/chat/completions", {**CHAT, "sda": None}, "vllm"),
        ("/v1/chat/completions", {**CHAT, "sda": {}}, "sda"),
        ("/v1/chat/completions", {**CHAT, "sda": {"alignment": None}}, "sda"),
        ("/v1/chat/completions", {**CHAT, "model": "served:honesty"}, "sda"),
        ("/v1/chat/completions", {**CHAT, "model": "a-lora"}, "vllm"),
        ("/v1/chat/completions", {**CHAT, "logprobs": True}, "sda"),
        ("/v1/completions", {"model": "served", "prompt": "Hello", "logprobs": 1}, "vllm"),
        ("/v1/completions", {"model": "served", "prompt": "Hello", "sda": {}}, "sda"),
        ("/tokenize", {"model": "served", "prompt": "Hello"}, "vllm"),
        ("/tokenize", {"model": "served", "prompt": "Hello", "sda": {}}, "sda"),
        ("/v1/embeddings", {"sda": {}}, "vllm"),
        ("/v1/models/served", None, "sda"),
        ("/health", None, "vllm"),
        ("/", None, "vllm"),
    ],
)
async def test_requests_go_where_they_belong(path: str, body: dict[str, Any] | None, name: str):
    assert await who(middleware(), path, body) == name
    if body is not None:
        assert await who(middleware(), path, body, pieces=5) == name


async def test_a_default_alignment_is_for_all_chats():
    assert await who(middleware(alignment="honesty"), "/v1/chat/completions", CHAT) == "sda"


@pytest.mark.parametrize("body", [b"no JSON", b"[]", json.dumps({**CHAT, "sda": {}}).encode("utf-16"), b""])
async def test_what_cannot_be_read_here_is_not_left_to_vllm_which_might_read_it_without_sda(body: bytes):
    assert await who(middleware(), "/v1/chat/completions", body or b" ") == "sda"


async def test_a_body_that_is_too_long_is_for_our_limits_to_refuse():
    app = middleware(limits=ServerLimits(body_bytes=1024))
    assert await who(app, "/v1/chat/completions", {**CHAT, "user": "x" * 5000}, pieces=9) == "sda"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
async def test_where_there_are_keys_nothing_is_read_without_one(path: str):
    app = middleware(api_keys=["secret"])
    for body in (CHAT, {**CHAT, "sda": {}}):
        assert await who(app, path, body) == "401"
        assert await who(app, path, body, key="wrong") == "401"
    assert await who(app, path, CHAT, key="secret") == "vllm"
    assert await who(app, path, {**CHAT, "sda": {}}, key="secret") == "sda"


class Models:
    """An application that lists models, or says that it has none to tell."""

    def __init__(self, *names: str, status: int = 200) -> None:
        self._reply = JSONResponse({"object": "list", "data": [{"id": name} for name in names]}, status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["app"] is None, "no other application has left itself there"
        scope["app"] = self  # as FastAPI does
        await self._reply(scope, receive, send)


@pytest.mark.parametrize(
    ("ours", "vllm", "status", "names"),
    [
        (Models("m", "m:honesty"), Models("m", "a-lora"), 200, ["m", "m:honesty", "a-lora"]),
        (Models("m"), Models(status=500), 200, ["m"]),
        (Models(status=401), Models("m", "a-lora"), 401, []),
    ],
    ids=["both", "vLLM fails", "no key"],
)
async def test_the_list_of_models_has_ours_and_what_only_vllm_knows(
    ours: Models, vllm: Models, status: int, names: list[str]
):
    app = SDAMiddleware(vllm)
    app._parts = _Parts.of(ours, vllm, ServerSettings())

    async def with_app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = None
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_app), base_url="http://server") as client:
        reply = await client.get("/v1/models")
    assert (reply.status_code, [model["id"] for model in reply.json()["data"]]) == (status, names)
