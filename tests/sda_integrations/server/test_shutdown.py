"""How a server ends: what runs goes on for a while, what is new is refused, what is left is told."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest
from fastapi.responses import StreamingResponse

from sda_engine.errors import ConfigError
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.server import ServerSettings, make_app
from sda_integrations.server.serving import bind
from tests.servers import serving, serving_app

COMMAND = "import typer; from sda_integrations.server.command import serve; typer.run(serve)"


@pytest.fixture
def slow(scripted):
    """Makes an application with routes that go on until a test lets them, and says when they have begun."""

    def make(**settings):
        app = make_app(scripted, ServerSettings(**settings))
        app.state.begun, app.state.may_end, app.state.unwound = (threading.Event() for _ in range(3))

        async def wait():
            app.state.begun.set()
            try:
                while not app.state.may_end.is_set():
                    await asyncio.sleep(0.002)
            finally:
                app.state.unwound.set()

        async def chunks():
            yield b'data: {"choices": []}\n\n'
            await wait()
            yield b"data: [DONE]\n\n"

        @app.get("/slow")
        async def whole():
            await wait()
            return {"whole": True}

        @app.get("/stream")
        async def stream():
            return StreamingResponse(chunks(), media_type="text/event-stream")

        return app

    return make


@contextmanager
def asking(url):
    """A request in a thread of its own; gives a list that holds the reply once it has come."""
    replies = []
    thread = threading.Thread(target=lambda: replies.append(httpx.get(url, timeout=60)))
    thread.start()
    yield replies
    thread.join()


def test_running_requests_end_and_new_ones_are_refused_while_the_socket_still_answers(slow):
    app = slow()
    with serving_app(app) as (url, server), asking(f"{url}/slow") as replies:
        assert app.state.begun.wait(30)
        server.handle_exit(signal.SIGTERM, None)
        refused = httpx.get(f"{url}/v1/models")
        health, numbers = httpx.get(f"{url}/health"), httpx.get(f"{url}/metrics")
        app.state.may_end.set()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["connection"] == "close"
    assert (health.status_code, health.json()["error"]["code"]) == (503, "shutting_down")
    assert numbers.status_code == 200
    assert replies[0].json() == {"whole": True}


def test_it_ends_by_itself_after_the_last_request(slow):
    app = slow()
    with serving_app(app) as (url, server):
        with asking(f"{url}/slow") as replies:
            assert app.state.begun.wait(30)
            server.handle_exit(signal.SIGTERM, None)
            app.state.may_end.set()
        assert replies[0].status_code == 200
        while not server.should_exit:
            assert threading.main_thread().is_alive()
            threading.Event().wait(0.01)
        assert not server.force_exit


def test_a_body_that_is_still_being_sent_counts_as_a_request_that_runs(scripted):
    with serving_app(make_app(scripted)) as (url, server):
        port = httpx.URL(url).port
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = b'{"prompt": "fox"}'
            head = f"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            client.sendall(head.encode() + body[:5])
            while not server._draining.running:
                threading.Event().wait(0.002)
            server.handle_exit(signal.SIGTERM, None)
            assert httpx.get(f"{url}/v1/models").status_code == 503
            client.sendall(body[5:])
            reply = b"".join(iter(lambda: client.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 200")
    assert b'"count":' in reply


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_what_runs_beyond_the_limit_is_cancelled_and_its_client_told(slow, path):
    app = slow(shutdown_seconds=0)
    with serving_app(app) as (url, server), asking(url + path) as replies:
        assert app.state.begun.wait(30)
        server.handle_exit(signal.SIGTERM, None)
    assert app.state.unwound.is_set()
    assert not app.state.may_end.is_set()
    if path == "/slow":
        assert replies[0].status_code == 503
        assert replies[0].json()["error"]["code"] == "shutting_down"
    else:
        begun, error, done, rest = replies[0].text.split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert (begun, done, rest) == ('data: {"choices": []}', "data: [DONE]", "")


def test_a_second_signal_ends_it_at_once(slow):
    app = slow(shutdown_seconds=3600)
    with serving_app(app) as (url, server), asking(f"{url}/stream") as replies:
        assert app.state.begun.wait(30)
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGINT, None)
    assert "shutting_down" in replies[0].text
    assert replies[0].text.endswith("data: [DONE]\n\n")


def test_too_long_headers_are_refused_whole_or_not(scripted):
    with serving(scripted) as url:
        assert httpx.get(f"{url}/health", headers={"x-long": "x" * 16_000}).status_code == 200
        whole = httpx.get(f"{url}/health", headers={"x-long": "x" * 40_000})
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nx-long: " + b"x" * 300_000)
            unending = client.recv(4096)
    assert (whole.status_code, whole.json()["error"]["code"]) == (431, "headers_too_large")
    assert unending.startswith(b"HTTP/1.1 400")


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"host 'no\.such\.host\.invalid'"):
        bind("no.such.host.invalid", 0)


def test_the_command_serves_a_model_and_ends_well_when_it_is_told_to(tmp_path):
    """The one test with a process of its own: that takes ten seconds, most of them imports."""
    tokenizer = tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "tiny"), "--port", "0", "--alignment", "honesty"]
    environment = {**os.environ, "SDA_API_KEY": "one two", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if "Serving" in line:
                break
        url = said[-1].partition(" at ")[2].partition("/v1")[0]
        replies = [
            httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}) for key in ("two", "one two")
        ]
        process.send_signal(signal.SIGTERM)
        said += process.stderr.readlines()
    assert [reply.status_code for reply in replies] == [200, 401]
    assert replies[0].json()["data"][0]["id"] == "tiny"
    assert process.returncode == 0, said
    text = "".join(said)
    assert "alignment honesty by default" in text
    assert "GET /v1/models 200" in text
    assert "Traceback" not in text
