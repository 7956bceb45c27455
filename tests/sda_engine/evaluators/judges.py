"""A judge behind a real HTTP server, what it may reply, and the fixtures of its tests."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from tenacity import wait_none
from werkzeug import Request, Response

from sda_engine.alignment import PRESETS
from sda_engine.evaluators import EvaluationRequest, OpenAIEvaluator

CANARY = "sk-canary-0123456789"
GOOD = '{"reason": "fine", "score": 85}'
RATED = EvaluationRequest([{"role": "user", "content": "2 + 2?"}], "It is four.", PRESETS["honesty"])
Reply = Response | Callable[[], Response]


def completion(content: object = GOOD, finish_reason: str | None = "stop", **message: object) -> Response:
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content, **message},
    }
    return as_json({"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]})


def as_json(body: object, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(body), status, headers, mimetype="application/json")


def fault(status: int, message: str = "no", **headers: str) -> Response:
    return as_json({"error": {"message": message, "type": "fault", "param": None, "code": None}}, status, **headers)


class Judge:
    """A real HTTP server that gives scripted replies in turn, the last for ever, and keeps the requests."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/v1")
        self.script: list[Reply] = [completion()]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.released = threading.Event()  # set when the test is over, so that no handler outlives it
        self.arrived = threading.Semaphore(0)  # released by each call
        self._lock = threading.Lock()
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._reply)

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def _reply(self, request: Request) -> Response:
        with self._lock:
            self.bodies.append(json.loads(request.data))
            self.headers.append(str(request.headers))
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.arrived.release()
        return reply() if callable(reply) and not isinstance(reply, Response) else reply

    def hang(self) -> Response:
        self.released.wait(20)
        return completion()

    def drip(self) -> Response:
        def spaces() -> Iterator[str]:
            for _ in range(1000):
                if not self.released.wait(0.02):
                    yield " "

        return Response(spaces(), mimetype="application/json")

    def evaluator(self, **settings: object) -> OpenAIEvaluator:
        return OpenAIEvaluator("judge", **{"base_url": self.url, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def server() -> Iterator[HTTPServer]:
    yield from _serve()


@pytest.fixture(scope="session")
def other_server() -> Iterator[HTTPServer]:
    yield from _serve()


@pytest.fixture
def judge(server: HTTPServer) -> Iterator[Judge]:
    yield from _judge_on(server)


@pytest.fixture
def elsewhere(other_server: HTTPServer) -> Iterator[Judge]:
    """A second server, which is not to be called."""
    yield from _judge_on(other_server)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sda_engine.evaluators.retries._BACKOFF", wait_none())


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def _serve() -> Iterator[HTTPServer]:
    server = HTTPServer("127.0.0.1", threaded=True)
    server.start()
    yield server
    server.stop()


def _judge_on(server: HTTPServer) -> Iterator[Judge]:
    judge = Judge(server)
    yield judge
    judge.released.set()
    server.clear()
