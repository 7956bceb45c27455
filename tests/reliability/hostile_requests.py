"""Requests that are malformed in ways that a seed chooses, as bytes of a connection, and what comes back."""

import gzip
import json
import random
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

ROUTES = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/sda/presets"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CHAT = {
    "model": "tiny",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
    "max_tokens": 3,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "stop": ["x"],
    "seed": 7,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [TOOL],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "sda": {"alignment": {"instruction": "be kind", "avoid": "be rude"}, "gain": 1.5, "trace": True, "timeout": 30},
}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": ["Who?", "Why?"], "max_tokens": 3, "logprobs": 1, "n": 1},
    "/tokenize": {"model": "tiny", "messages": CHAT["messages"], "sda": {"schema_in_prompt": True}},
}
ODD_VALUES = (
    *(None, True, False, 0, -1, 10**400, -(10**20), 1e308, 5e-324, 0.1, "", "\x00", "￿", "\U0001f600" * 50),
    *("{{ 7 * 7 }}", "<|im_end|>", "../../etc/passwd", "http://127.0.0.1:1/x.png", "a" * 5_000, [], {}, [[]], [None]),
    *({"": ""}, {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}, [{"$ref": "#"}], {"$ref": "#"}),
    *(["honesty", 1.0], {"honesty": -1}, [["honesty", "much"]], {"type": "json_schema"}, "tiny:empathy", [1] * 300),
)
ODD_TEXTS = (b'"\\ud800"', b"NaN", b"1e999", b"-0", b"01", b"\xff", b"nul", b"'a'", b"/*c*/1", b"[" * 5_000, b"")


def nested(value: object, rng: random.Random, change: Callable[[object], object]) -> object:
    """The value with one thing in it changed, as deep as it comes."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        return {**value, key: nested(value[key], rng, change)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], nested(value[place], rng, change), *value[place + 1 :]]
    return change(value)


def changed_body(body: dict, rng: random.Random) -> bytes:
    """A body with some of its values replaced, left out, doubled or added."""

    def change(value: object) -> object:
        kind = rng.random()
        if kind < 0.6 or not isinstance(value, dict):
            return rng.choice(ODD_VALUES)
        if kind < 0.8 and value:
            left_out = rng.choice(sorted(value))
            return {key: one for key, one in value.items() if key != left_out}
        return {**value, rng.choice(["", "x" * 300, "__proto__", "$schema", "n", "messages"]): rng.choice(ODD_VALUES)}

    for _ in range(rng.choice([1, 1, 2, 4])):
        changed = nested(body, rng, change)
        body = changed if isinstance(changed, dict) else {**body, "messages": changed}
    return json.dumps(body).encode("utf-8", "surrogatepass")


def broken_bytes(text: bytes, rng: random.Random) -> bytes:
    """A text with some of its bytes cut off, overwritten, doubled, or in place of which there is no JSON."""
    place = rng.randrange(len(text) + 1)
    other = rng.randrange(len(text) + 1)
    kinds = (
        text[:place],
        text[place:],
        text[:place] + rng.randbytes(rng.randrange(1, 20)) + text[place:],
        text + text,
        text[: min(place, other)] + text[max(place, other) :],
        text.replace(b":", b": " + rng.choice(ODD_TEXTS) + b", ", 1),
        rng.choice(ODD_TEXTS),
        b"\xef\xbb\xbf" + text,
        text.decode("utf-8", "replace").encode("utf-16"),
        rng.randbytes(rng.randrange(2_000)),
    )
    return rng.choice(kinds)


def request(
    method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]], version: bytes = b"HTTP/1.1"
) -> bytes:
    lines = [b"%s %s %s" % (method.encode("latin-1"), path.encode("latin-1"), version)]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers), b"", b""]) + body


def usual(body: bytes) -> list[tuple[bytes, bytes]]:
    kept = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"connection", b"close")]
    return [*kept, (b"content-length", b"%d" % len(body))]


def without_length(body: bytes) -> list[tuple[bytes, bytes]]:
    return usual(body)[:-1]


# --- What is wrong, below the body


def odd_method(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    odd = rng.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "post", "G@T", "X" * 200, "PRI"])
    return request(odd, path, body, usual(body))


def odd_path(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    odd = [
        *(path + "/", "/" + path, path + "/../..", path + "%00", path + "?" + "a=b&" * 50, path + "#x", path.upper()),
        *("/v1/models/" + "%2e%2e%2f" * 20, "/v1/models/" + "\xff" * 30, "/v1/models/a b", "*", "http://other/" + path),
        *("/" * 500, "/v1/models/" + "x" * 5_000, "/%", "/%zz", "/\x7f", "", "/v1/models/{{x}}", "/" + "y" * 40_000),
    ]
    return request(method, rng.choice(odd), body, usual(body))


def odd_headers(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    kept = usual(body)
    odd = [
        [(b"x-%d" % place, b"1") for place in range(150)],
        [(b"x-long", b"x" * rng.choice([10_000, 33_000, 200_000]))],
        [(b"content-type", rng.choice([b"text/plain", b"multipart/form-data; boundary=x", b"\xff", b"a" * 999]))],
        [(b"content-encoding", rng.choice([b"gzip", b"br", b"zstd, gzip", b"no such"]))],
        [(b"expect", rng.choice([b"100-continue", b"nothing"]))],
        [(b"connection", rng.choice([b"upgrade", b"keep-alive, x", b"close"])), (b"upgrade", b"websocket")],
        [(b"accept", rng.choice([b"text/event-stream", b"\x01", b"*/*;q=a"]))],
        [(b"x-request-id", rng.choice([b"\x1b[31m", b"x" * 500, b"a\tb", b"\xc3\xa9"]))],
        [(b"authorization", rng.choice([b"Bearer", b"Bearer \xff", b"Basic !!", b"Digest " + b"x" * 2_000]))],
        [(b"origin", rng.choice([b"null", b"http://[", b"https://foreign.example", b"\xff"]))],
        [(b"bad name", b"1")],
        [(b"", b"1")],
        [(b"x-folded", b"a\r\n b"), (b"x-nul", b"a\x00b")],
        [(b"host", b"other"), (b"host", b"another")],
        [(b"cookie", b"a=" + b"b" * 4_000), (b"range", b"bytes=0-1,5-"), (b"x-forwarded-for", b"' or 1=1")],
    ]
    if rng.random() < 0.1:
        kept = kept[1:]  # no host
    return request(method, path, body, kept + rng.choice(odd))


def odd_length(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    length = len(body)
    odd = [length + 1, length + 10_000, max(length - 5, 0), -1, 10**9, 10**30, "0x10", "1,2", "", "1e3", "+5", " "]
    headers = [*without_length(body), (b"content-length", str(rng.choice(odd)).encode())]
    if rng.random() < 0.2:
        headers += [(b"content-length", b"3")]
    return request(method, path, body, headers)


def odd_chunks(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    """Chunked bodies: whole, cut off, or with garbage between the chunks."""
    half = len(body) // 2
    sizes = [b"%x" % half, b"zz", b"-1", b"%x" % 10**12, b"", b"1" * 50, b"%x;ext=%s" % (half, b"a" * 100)]
    first = rng.choice([sizes[0], rng.choice(sizes)])
    rest = body[half:]
    ends = (b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest), b"0\r\n\r\n", b"", b"0\r\nx-trailer: 1\r\n\r\n", b"\r\n\r\n")
    text = first + b"\r\n" + body[:half] + rng.choice([b"\r\n", b"\r\n", b"", b"xx"]) + rng.choice(ends)
    headers = [
        *without_length(body),
        (b"transfer-encoding", rng.choice([b"chunked", b"chunked", b"gzip, chunked", b"x"])),
    ]
    if rng.random() < 0.2:
        headers += [(b"content-length", b"%d" % len(body))]
    return request(method, path, text, headers)


def odd_encoding(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    packed = rng.choice([gzip.compress(body), gzip.compress(b"0" * 1_000_000), gzip.compress(body)[:-4], body])
    return request(method, path, packed, [*usual(packed), (b"content-encoding", b"gzip")])


def cut_off(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    whole = request(method, path, body, usual(body))
    return whole[: rng.randrange(1, len(whole))]


def one_after_the_other(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    """Several requests at once on one connection, or one in the body of the other."""
    whole = request(method, path, body, [header for header in usual(body) if header[0] != b"connection"])
    health = request("GET", "/health", b"", [(b"host", b"127.0.0.1")])
    return rng.choice(
        [whole * 3, health * 20 + whole, whole + rng.randbytes(30), whole[:-1] + health, health + whole[:9]]
    )


def no_http(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200)
    old = request(method, path, body, usual(body), rng.choice([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"FTP/1.1"]))
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50)
    return rng.choice([tls, old, old, http2, b"\r\n" * 50, b"\x00" * 100, rng.randbytes(1_000), body, b"GET /\n\n"])


def as_it_should_be(method: str, path: str, body: bytes, rng: random.Random) -> bytes:
    return request(method, path, body, usual(body))


MAY_WAIT = (odd_length, odd_chunks, cut_off, one_after_the_other, no_http)
"""After these the server may wait for more, or for the next request."""
WAYS = (*(as_it_should_be,) * 8, odd_method, odd_path, *(odd_headers,) * 2, odd_encoding, *MAY_WAIT)


@dataclass(frozen=True)
class Hostile:
    """A request that is malformed.

    Attributes:
        text: what is sent.
        patience: seconds without a byte after which the client goes; None for one that the server will answer.
    """

    text: bytes
    patience: float | None


def hostile_request(rng: random.Random) -> Hostile:
    """A request, malformed in its body, below it, or both."""
    method, path = rng.choice(ROUTES)
    given = BODIES.get(path)
    body = b"" if given is None else json.dumps(given).encode()
    way = rng.choice(WAYS)
    if given is not None and (way is as_it_should_be or rng.random() < 0.3):
        body = changed_body(given, rng)
        if rng.random() < 0.3:
            body = broken_bytes(body, rng)
    hangs_up = rng.random() < 0.1
    return Hostile(way(method, path, body, rng), 0.0 if hangs_up else 0.05 if way in MAY_WAIT else None)


_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def send(url: str, hostile: Hostile) -> list[int]:
    """Send a request on a connection of its own, and tell the statuses of all replies to it."""
    address, reply = httpx.URL(url), bytearray()
    with socket.create_connection((address.host, address.port), timeout=60) as client:
        with suppress(ConnectionError):  # it may refuse before all is sent
            client.sendall(hostile.text)
        expected = () if hostile.patience is None else (TimeoutError, BlockingIOError)
        client.settimeout(60 if hostile.patience is None else hostile.patience)
        with suppress(ConnectionError, *expected):
            while part := client.recv(65_536):
                reply += part
    return [int(status) for status in _STATUS.findall(reply)]
