"""A server behind HTTP that answers by a script, in the wire format or otherwise, and the fixtures of its tests."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from pytest_httpserver import HTTPServer
from tenacity import wait_none
from werkzeug import Request, Response

from sda_engine import RemoteEngine, Steering
from sda_engine.errors import SDAError
from sda_engine.results import Candidate, Completion, Piece, Trace, TraceToken, Usage
from sda_engine.testing import ScriptedEvaluator
from sda_engine.wire.errors import kind_of, write_error
from sda_engine.wire.replies import ModelCard, TokenizeReply
from sda_engine.wire.write_reply import ReplyWriter

CANARY = "sda-canary-0123456789"
WORDS = ("It ", "is ", "round.")
Reply = Response | Callable[[], Response]

_WRITER = ReplyWriter("chat-1", 0, "m", token_ids=True)


def _token(place: int, text: str) -> TraceToken:
    return TraceToken(place, text, 0.25, 0.5, -0.1, base=(Candidate("no", 0.5),), strength=2.0)


TOKENS = tuple(_token(place, text) for place, text in enumerate(WORDS))
DONE = Completion(
    text="".join(WORDS),
    token_ids=(0, 1, 2),
    finish_reason="stop",
    usage=Usage(prompt_tokens=7, completion_tokens=3, cached_prompt_tokens=2),
    trace=Trace(TOKENS, alignment="honesty", strength=2.0),
    amplification=1.0,
)
"""What the server's engine answers."""


def pieces(completion: Completion = DONE) -> list[Piece]:
    """The same as a stream."""
    plain = [Piece(text, token_ids=(place,)) for place, text in enumerate(WORDS)]
    return [*plain[:-1], Piece(plain[-1].text, token_ids=plain[-1].token_ids, completion=completion)]


def as_json(body: object, status: int = 200, **headers: str) -> Response:
    text = body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body)
    return Response(
        text, status, {name.replace("_", "-"): value for name, value in headers.items()}, "application/json"
    )


def whole(completion: Completion = DONE, **writer: Any) -> Response:
    return as_json(ReplyWriter("chat-1", 0, "m", token_ids=True, **writer).reply([completion]))


def fault(status: int, message: str = "no", code: str | None = None, **headers: str) -> Response:
    error = {"message": message, "type": "fault", "param": None, "code": code}
    return as_json({"error": error}, status, **headers)


def told(error: SDAError, **headers: str) -> Response:
    """The reply in which our server tells of an error."""
    return as_json(write_error(error), kind_of(error).status, **headers)


def chunks(completion: Completion = DONE) -> list[str]:
    """The chunks of a stream, as JSON texts."""
    written = [_WRITER.first_chunk(0), *(_WRITER.chunk(0, piece) for piece in pieces(completion))]
    texts = [chunk.model_dump_json(exclude_none=True) for chunk in written if chunk is not None]
    return [*texts, _WRITER.usage_chunk([completion.usage]).model_dump_json(exclude_none=True)]


def streamed(texts: Iterable[str] | None = None, *, done: bool = True, **headers: str) -> Response:
    def events() -> Iterator[str]:
        for text in chunks() if texts is None else texts:
            yield f"data: {text}\n\n"
        if done:
            yield "data: [DONE]\n\n"

    return Response(events(), 200, headers, "text/event-stream")


def card(**sda: object) -> Response:
    return as_json(ModelCard(id="m", created=0, max_model_len=77, sda={"thinks": True, "reads_pictures": False, **sda}))


class ScriptedServer:
    """Gives its replies in turn, the last for ever, and keeps the requests."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self.url = server.url_for("/v1")
        self.script: list[Reply] = [whole()]
        self.card: Reply = card()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.released = threading.Event()  # set when the test is over, so that no handler outlives it
        self.arrived = threading.Semaphore(0)
        self.left = threading.Event()  # a client has closed its connection while `endless` was sent
        self._lock = threading.Lock()
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._answer)
        server.expect_request("/tokenize", method="POST").respond_with_handler(self._tokenize)
        server.expect_request("/v1/models/m", method="GET").respond_with_handler(self._model)

    @property
    def calls(self) -> int:
        """How many answers were asked for."""
        return self.paths.count("/v1/chat/completions")

    def engine(self, **settings: Any) -> RemoteEngine:
        return RemoteEngine(self.url, **{"model": "m", **settings})

    def _keep(self, request: Request) -> None:
        with self._lock:
            self.paths.append(request.path)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            if request.data:
                self.bodies.append(json.loads(request.data))

    def _answer(self, request: Request) -> Response:
        self._keep(request)
        with self._lock:
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.arrived.release()
        return reply() if callable(reply) and not isinstance(reply, Response) else reply

    def _tokenize(self, request: Request) -> Response:
        self._keep(request)
        given = json.loads(request.data)
        tokens = tuple(range(len(given["prompt"]))) if "prompt" in given else None
        return as_json(TokenizeReply(count=21 if tokens is None else len(tokens), max_model_len=77, tokens=tokens))

    def _model(self, request: Request) -> Response:
        self._keep(request)
        return self.card() if callable(self.card) and not isinstance(self.card, Response) else self.card

    def hang(self) -> Response:
        """Answers when the test is over."""
        self.released.wait(20)
        return whole()

    def endless(self, texts: Sequence[str] | None = None) -> Response:
        """The first chunks of a stream, and then nothing but comments, until the client leaves."""

        def events() -> Iterator[str]:
            try:
                for text in chunks()[:2] if texts is None else texts:
                    yield f"data: {text}\n\n"
                while not self.released.wait(0.01):
                    yield ": waiting\n\n"
            finally:
                self.left.set()

        return Response(events(), 200, {}, "text/event-stream")

    def drip(self) -> Response:
        """A reply of which a byte comes now and then."""

        def spaces() -> Iterator[str]:
            while not self.released.wait(0.02):
                yield " "

        return Response(spaces(), mimetype="application/json")


@pytest.fixture(scope="session")
def http() -> Iterator[HTTPServer]:
    server = HTTPServer("127.0.0.1", threaded=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(http: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    for name in ("SDA_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sda_engine.remote.exchange._BACKOFF", wait_none())
    server = ScriptedServer(http)
    yield server
    server.released.set()
    http.clear()


@pytest.fixture
def blind(server: ScriptedServer) -> ScriptedServer:
    """The server as one that has no evaluators."""
    server.card = card(backend="vllm", evaluators=False)
    return server


def rated(script: Sequence[float | Exception], *, needs: Mapping[str, bool] | None = None, **settings: Any) -> Steering:
    """Steering by a new evaluator with such a script, and with such needs."""
    return Steering(evaluator=ScriptedEvaluator(script, **(needs or {})), **settings)
