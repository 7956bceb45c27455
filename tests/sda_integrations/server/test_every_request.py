"""What every request goes through, whatever route it asks for."""

import gzip
import json
import logging

import pytest
from fastapi.responses import StreamingResponse

from sda_engine.errors import EvaluationError, QueueFullError
from sda_integrations.server import ServerLimits


def route(client, path, answer):
    """A route of the client's server that does what a test wants."""
    client._transport.app.get(path)(answer)
    return client


async def test_a_request_id_is_taken_over_or_made(client_of):
    client = client_of()
    assert (await client.get("/health", headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = [(await client.get("/health")).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "a\x7f", "schlüssel".encode(), "\x1b[31m"])
async def test_an_id_that_could_forge_a_log_is_replaced(client_of, given):
    reply = await client_of().get("/health", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] not in (given, "")


async def test_every_reply_tells_browsers_to_keep_and_run_nothing(client_of):
    client = client_of(api_keys=("key",))
    for reply in (await client.get("/health"), await client.get("/v1/models"), await client.get("/nope")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers


async def test_a_route_may_have_a_policy_of_its_own(client_of):
    async def page():
        return StreamingResponse(iter([b"<p>"]), headers={"content-security-policy": "default-src 'self'"})

    reply = await route(client_of(), "/page", page).get("/page")
    assert reply.headers["content-security-policy"] == "default-src 'self'"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "route_not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/tokenize", 405, "method_not_allowed"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/docs", 404, "route_not_found"),
        ("GET", "/v1/models/%ff%00", 404, "model_not_found"),
    ],
)
async def test_what_does_not_exist_is_told_in_the_shape_of_openai(client_of, method, path, status, code):
    reply = await client_of().request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"]


async def test_a_fault_that_nobody_foresaw_tells_the_client_nothing_and_the_log_all(client_of, caplog):
    async def fail():
        raise ValueError("/home/operator/secret.txt")

    reply = await route(client_of(), "/fail", fail).get("/fail", headers={"x-request-id": "id-7"})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] == "id-7"
    assert "id-7" in caplog.text
    assert "secret.txt" in caplog.text


async def test_a_stream_that_breaks_ends_with_an_error_and_its_usual_end(client_of, caplog):
    async def chunks():
        yield b'data: {"choices": []}\n\n'
        raise ValueError("/home/operator/secret.txt")

    async def stream():
        return StreamingResponse(chunks(), media_type="text/event-stream")

    reply = await route(client_of(), "/stream", stream).get("/stream")
    begun, error, done, rest = reply.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert (begun, done, rest) == ('data: {"choices": []}', "data: [DONE]", "")
    assert "secret" not in reply.text
    assert "secret.txt" in caplog.text


async def test_an_error_of_the_servers_own_is_told_without_its_text_and_logged_with_it(client_of, caplog):
    async def judge():
        raise EvaluationError("The judge at http://judge.internal answered 500", base_response="so far")

    reply = await route(client_of(), "/judge", judge).get("/judge")
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "evaluation_failed"
    assert reply.json()["error"]["sda"] == {"base_response": "so far"}
    assert "judge.internal" not in reply.text
    assert "judge.internal" in caplog.text


async def test_a_full_queue_says_when_to_try_again(client_of):
    async def full():
        raise QueueFullError("full")

    reply = await route(client_of(), "/full", full).get("/full")
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) > 0


async def test_the_log_has_a_line_for_each_request_and_nothing_of_its_body_query_or_key(client_of, caplog):
    caplog.set_level(logging.INFO, "sda_integrations.server")
    client = client_of(api_keys=("s3cret",))
    headers = {"authorization": "Bearer s3cret", "x-request-id": "id-9"}
    await client.post("/tokenize?key=s3cret", json={"prompt": "private words"}, headers=headers)
    await client.get("/no%0Ape", headers=headers)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("POST /tokenize 200 in ")
    assert lines[0].endswith("request id-9")
    assert "\n" not in lines[1]
    assert "s3cret" not in caplog.text
    assert "private" not in caplog.text


async def test_a_long_body_is_refused_by_what_it_states_and_by_what_comes(client_of):
    client = client_of(limits=ServerLimits(body_bytes=1024))
    sent = []

    async def endless():
        while True:
            sent.append(512)
            yield b"x" * 512

    stated = await client.post("/tokenize", content=b"x" * 1025)
    streamed = await client.post("/tokenize", content=endless())
    for reply in (stated, streamed):
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "request_too_large"
        assert reply.headers["connection"] == "close"
    assert sum(sent) <= 2048, "the rest was not read"


async def test_a_body_of_exactly_the_limit_is_taken(client_of):
    client = client_of(limits=ServerLimits(body_bytes=1024))
    body = json.dumps({"prompt": ""})
    body = json.dumps({"prompt": "a" * (1024 - len(body))})
    assert (await client.post("/tokenize", content=body)).status_code == 200


async def test_texts_have_a_limit_of_their_own_beside_pictures(client_of):
    client = client_of(limits=ServerLimits(text_bytes=1024))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A/" * 1000}}
    turn = {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}
    pictures = {"messages": [turn] * 3}
    for body in (json.dumps(pictures), json.dumps(pictures).replace("/", "\\/").replace("data:", "DATA:")):
        reply = await client.post("/tokenize", content=body)
        assert (reply.status_code, "reads text only" in reply.text) == (400, True), "pictures do not count"
    texts = [{"prompt": "a" * 1024}, {"prompt": 'the "url": "data:image/png' + "a" * 1024}, {"messages": [{}] * 1000}]
    for body in texts:
        reply = await client.post("/tokenize", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert "beside its pictures, and this server takes 1024" in reply.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd, br"])
async def test_a_compressed_body_is_refused_and_not_unpacked(client_of, encoding):
    client = client_of()
    for body in (gzip.compress(b'{"prompt": "a"}'), b'{"prompt": "a"}'):
        reply = await client.post("/tokenize", content=body, headers={"content-encoding": encoding})
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_encoding")
        assert "Content-Encoding" in reply.json()["error"]["message"]
    plain = await client.post("/tokenize", json={"prompt": "a"}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


async def test_too_many_headers_are_refused(client_of):
    reply = await client_of().get("/v1/models", headers={f"x-{place}": "1" for place in range(100)})
    assert reply.status_code == 431


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"7",
        b"[" * 100_000,
        b'{"prompt":' * 50_000,
        b'{"prompt": NaN}',
        b'{"prompt": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "\\ud800"}',
        b"\xff\xfe\x00",
        b'{"\\u0000": 1}',
        b'{"prompt": "a", "prompt": 7}',
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"messages": [{"role": "user"}], "prompt": "both"}',
        b'{"messages": [{"role": "wizard", "content": "hi"}]}',
        b'{"prompt": "x", "sda": {"template_kwargs": {"a": [1]}}}',
        b'{"prompt": "x", "model": "nobody"}',
        b'{"prompt": "x", "surprise": 1}',
    ],
)
async def test_no_malformed_body_is_a_fault_of_the_server(client_of, body):
    reply = await client_of().post("/tokenize", content=body)
    assert 400 <= reply.status_code < 500, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in error["message"]
    assert "pydantic" not in error["message"]


async def test_web_pages_of_other_origins_may_neither_read_nor_ask_unless_named(client_of):
    foreign = {"origin": "https://foreign.example"}
    closed = await client_of().post("/tokenize", json={"prompt": "a"}, headers=foreign)
    assert closed.status_code == 403
    assert "access-control-allow-origin" not in closed.headers
    open_to = client_of(cors_origins=("https://foreign.example",))
    reply = await open_to.post("/tokenize", json={"prompt": "a"}, headers=foreign)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://foreign.example"
    preflight = {**foreign, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert (await open_to.options("/tokenize", headers=preflight)).status_code == 200
    assert (await open_to.get("/v1/models", headers={"origin": "https://else.example"})).status_code == 403


async def test_a_page_of_the_server_itself_may_ask(client_of):
    reply = await client_of().get("/v1/models", headers={"origin": "http://server"})
    assert reply.status_code == 200
    assert (await client_of().get("/v1/models", headers={"origin": "null"})).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("localhost:8000", 200),
        ("sda", 200),
        ("box.local:8000", 200),
        ("rebound.example:8000", 403),
        ("127.0.0.1.rebound.example", 403),
        ("[rebound", 403),
    ],
)
async def test_a_page_under_a_public_name_may_mean_somebody_elses_machine(client_of, host, status):
    headers = {"host": host, "origin": f"http://{host}"}
    assert (await client_of().get("/v1/models", headers=headers)).status_code == status
    with_key = client_of(api_keys=("key",))
    reply = await with_key.get("/v1/models", headers={**headers, "authorization": "Bearer key"})
    assert reply.status_code == 200, "a foreign page has no key"
    named = client_of(cors_origins=(f"http://{host}",))
    assert (await named.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://server/x", "server", "://", "", "\xff"])
async def test_an_origin_that_is_none_is_a_foreign_one(client_of, origin):
    reply = await client_of().get("/v1/models", headers={"origin": origin.encode("latin-1")})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "foreign_origin")
