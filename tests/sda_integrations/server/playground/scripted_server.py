"""A server on loopback that speaks the wire format from a script, so that the page is tried without a model."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sda_integrations.server.playground import playground_page

MODELS = ["tiny", "other", "tiny:honesty", "tiny:empathy"]
PRESETS = [
    {"name": "honesty", "instruction": "Answer truthfully.", "rubric": "Rate how truthful it is.", "avoid": None},
    {"name": "empathy", "instruction": "Reply warmly.", "rubric": "Rate the warmth.", "avoid": None},
]
KINDS = ("plain", "prompt", "steered")


def token(text: str, divergence: float = 0.0, **fields: object) -> dict[str, object]:
    """One token of a trace, with three candidates in each context."""
    other = [[" other", 0.2], ["\n", 0.0001]]
    return {
        "token_id": 7, "text": text, "divergence": divergence, "temperature": 0.55, "logprob": -0.5, "strength": 1.0,
        "position": None, "spent": None, "forced": False,
        "base": [[" else", 0.6], *other], "instructed": [[text, 0.5], *other], "steered": [[text, 0.75], *other],
    } | fields  # fmt: skip


def chunk(**fields: object) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", **fields}


def said(one: dict[str, object], *, field: str = "content") -> dict[str, object]:
    """The chunk that brings one token."""
    delta = {field: one["text"]} if one["text"] else {}
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}], sda={"trace": [one]})


def answer(tokens: list[dict[str, object]], *, finish: str = "stop", **sda: object) -> list[dict[str, object]]:
    """The chunks of one whole answer: its tokens, SDA's figures, and the usage."""
    figures = {"alignment": "empathy", "amplification": 1.0, "strength": 1.0, "score": None, "mean_divergence": 0.125}
    usage = {"prompt_tokens": 20, "completion_tokens": len(tokens), "total_tokens": 20 + len(tokens)}
    return [
        chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
        *(said(one) for one in tokens),
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": finish}], sda={**figures, "warnings": [], **sda}),
        chunk(choices=[], usage=usage),
    ]


def kind_of(body: dict[str, object]) -> str:
    """Which of the page's three requests this is."""
    sda = body["sda"]
    if sda["alignment"] is None:
        return "plain"
    return "prompt" if sda.get("amplification") == 0 else "steered"


@dataclass
class Script:
    """What the server answers, and what it saw.

    Attributes:
        answers: the chunks of each kind of answer.
        errors: status and error object of a kind that is refused, or of a path.
        breaks: kinds whose stream ends after the tokens, with this error event, or with nothing where it is None.
        pause: seconds between two chunks.
        held: kinds that go on without an end after their tokens, until the client hangs up.
        key: the key that the server asks for.
        default_alignment: the server's own.
        bodies: of the chat requests, by kind; keys: what was sent as Authorization; paths: all that was asked for.
        hung_up: set for each held kind once its client has gone.
    """

    answers: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    errors: dict[str, tuple[int, dict[str, object]]] = field(default_factory=dict)
    breaks: dict[str, dict[str, object] | None] = field(default_factory=dict)
    pause: float = 0.0
    held: tuple[str, ...] = ()
    key: str | None = None
    default_alignment: str | None = None
    bodies: dict[str, dict[str, object]] = field(default_factory=dict)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hung_up: dict[str, threading.Event] = field(default_factory=lambda: {kind: threading.Event() for kind in KINDS})


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Runs the server while the block runs; its address."""

    class Handler(_Handler):
        pass

    Handler.script = script
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.script.paths.append(self.path)
        if self.path == "/":
            page = playground_page()
            policy = {"Content-Security-Policy": page.content_security_policy}
            self._reply(200, page.html.encode(), "text/html; charset=utf-8", policy)
        elif self._may_go_on():
            models = [{"id": name, "sda": {"alignment": self.script.default_alignment}} for name in MODELS]
            data = {"/v1/models": models, "/v1/sda/presets": PRESETS}
            self._json(200, {"object": "list", "data": data[self.path]})

    def do_POST(self) -> None:
        self.script.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = kind_of(body)
        self.script.bodies[kind] = body
        if not self._may_go_on():
            return
        if kind in self.script.errors:
            status, error = self.script.errors[kind]
            self._json(status, {"error": error}, {"x-request-id": "req-7"})
        else:
            self._stream(kind)

    def _may_go_on(self) -> bool:
        self.script.keys.append(self.headers["Authorization"])
        if self.script.key is not None and self.headers["Authorization"] != f"Bearer {self.script.key}":
            self._json(
                401, {"error": {"message": "This key is not one of the server's.", "type": "auth", "param": None}}
            )
            return False
        if self.path in self.script.errors:
            status, error = self.script.errors[self.path]
            self._json(status, {"error": error})
            return False
        return True

    def _stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chunks = self.script.answers.get(kind, answer([token("Yes"), token(".", 0.1), token("")]))
        ends_early = kind in self.script.held or kind in self.script.breaks
        for one in chunks[:-2] if ends_early else chunks:
            self._event(json.dumps(one))
            time.sleep(self.script.pause)
        if kind in self.script.held:
            self._go_on_until_hung_up(self.script.hung_up[kind].set)
        elif kind not in self.script.breaks:
            self._event("[DONE]")
        elif error := self.script.breaks[kind]:
            self._event(json.dumps({"error": error}))
            self._event("[DONE]")

    def _go_on_until_hung_up(self, tell: Callable[[], None]) -> None:
        for _ in range(1000):
            try:
                self.wfile.write(b": still here\n\n")
            except OSError:
                tell()
                return
            time.sleep(0.01)

    def _event(self, data: str) -> None:
        """As three writes, so that the page must put events together that came in pieces."""
        event = f"data: {data}\r\n\r\n".encode()
        for piece in (event[:9], event[9:-1], event[-1:]):
            self.wfile.write(piece)
            self.wfile.flush()

    def _json(self, status: int, data: object, headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(data).encode(), "application/json", headers or {})

    def _reply(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
