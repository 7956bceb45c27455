"""What a RemoteEngine raises where its server refuses, fails, breaks off or is no server of ours."""

import json
import os
import pickle
import signal
import socket

import pytest
from werkzeug import Response

from sda_engine import RemoteEngine
from sda_engine.errors import (
    CapacityError,
    ConfigError,
    ConstraintError,
    ContextLengthError,
    EngineClosedError,
    EvaluationError,
    IncompleteOutputError,
    InvalidOutputError,
    MessageError,
    ModelLoadError,
    NumericalError,
    QueueFullError,
    RequestTimeoutError,
    SDAError,
    ServerError,
)
from sda_engine.remote.exchange import Exchange
from sda_engine.wire.errors import write_error
from tests.conftest import user
from tests.reliability.raw_server import RawServer
from tests.sda_engine.remote.scripted import chunks, fault, streamed, told

QUESTION = user("Is the earth flat?")
TOLD = [
    ConfigError("gain cannot be -1", field="sda.gain"),
    MessageError("no such role"),
    ConstraintError("too large a schema"),
    ContextLengthError(99, 77),
    CapacityError("too large"),
    ModelLoadError("No model 'n'. This server serves: m, m:honesty."),
    InvalidOutputError("does not fit", text="{}"),
    IncompleteOutputError("cut off", partial="{"),
    QueueFullError("full"),
    RequestTimeoutError("late"),
    NumericalError("NaN"),
    EvaluationError("no score", base_response="It is flat."),
    EngineClosedError("closed", partial="It "),
]
CARRIED = ("prompt_tokens", "context_window", "text", "partial", "base_response")


def carried(error: BaseException) -> dict[str, object]:
    return {name: getattr(error, name, None) for name in CARRIED}


@pytest.mark.parametrize("error", TOLD, ids=lambda error: type(error).__name__)
def test_what_the_engine_of_the_server_raises_is_raised_here_with_what_it_carries(server, error) -> None:
    server.script = [told(error)]
    with pytest.raises(type(error)) as caught:
        server.engine(max_retries=0).generate(QUESTION)
    assert type(caught.value) is type(error)
    assert carried(caught.value) == carried(error)


@pytest.mark.parametrize("error", [TOLD[-1], TOLD[-2], RequestTimeoutError("late")], ids=lambda one: type(one).__name__)
def test_an_error_in_the_middle_of_a_stream_is_raised_where_the_pieces_end(server, error) -> None:
    server.script = [streamed([*chunks()[:2], write_error(error).model_dump_json()])]
    stream = server.engine().stream(QUESTION)
    assert next(stream).text == "It "
    with pytest.raises(type(error)) as caught:
        next(stream)
    assert carried(caught.value) == carried(error)


def test_an_engine_that_closed_without_a_word_of_what_it_had_said_leaves_what_came(server) -> None:
    server.script = [streamed([*chunks()[:3], write_error(EngineClosedError("closed")).model_dump_json()])]
    with pytest.raises(EngineClosedError) as caught:
        list(server.engine().stream(QUESTION))
    assert caught.value.partial == "It is "


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_with_the_variable_that_would_set_it(server, status) -> None:
    server.script = [fault(status, "no such key")]
    with pytest.raises(
        ConfigError, match=rf"{status}.*no such key.*api_key.*SDA_API_KEY.*pickles.*keep no key"
    ) as caught:
        server.engine(api_key="wrong-key-0123").generate(QUESTION)
    assert caught.value.field == "api_key"


def test_an_unknown_model_comes_with_the_servers_list_before_and_with_a_request(server) -> None:
    missing = told(ModelLoadError("No model 'm'. This server serves: smollm2-135m."))
    server.script, server.card = [missing], missing
    engine = server.engine()
    for ask in (engine.connect, lambda: engine.generate(QUESTION)):
        with pytest.raises(ModelLoadError, match="serves: smollm2-135m"):
            ask()


def test_a_fault_of_the_server_tells_its_status_and_the_requests_id(server) -> None:
    server.script = [told(SDAError("secret"), x_request_id="req-7")]
    with pytest.raises(ServerError, match=r"answered 500.*log") as caught:
        server.engine().generate(QUESTION)
    assert (caught.value.status, caught.value.request_id) == (500, "req-7")


NO_WIRE_FORMAT = {
    "a web page": (Response("<html>", mimetype="text/html"), "something else than the wire format"),
    "another object": (Response("{}", mimetype="application/json"), "something else than the wire format"),
    "half an object": (Response('{"id": ', mimetype="application/json"), "something else than the wire format"),
    "no figures": (
        Response(
            json.dumps(
                {
                    "id": "1", "created": 0, "model": "m",
                    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }
            ),
            mimetype="application/json",
        ),
        "no figures of SDA",
    ),
    "a redirect": (Response("", 307, {"Location": "http://127.0.0.1:9/v1"}), "307.*Redirects are not followed"),
    "an error page": (Response("<html>busy", 500, mimetype="text/html"), "answered 500: '<html>busy'"),
    "compression": (Response(b"x", headers={"Content-Encoding": "gzip"}), "compressed"),
}  # fmt: skip


@pytest.mark.parametrize("reply", NO_WIRE_FORMAT.values(), ids=NO_WIRE_FORMAT)
def test_whatever_else_comes_is_a_server_error(server, reply) -> None:
    server.script = [reply[0]]
    with pytest.raises(ServerError, match=reply[1]):
        server.engine().generate(QUESTION)
    assert server.calls == 1


@pytest.mark.parametrize("events", [["no json"], ['{"id": 1}'], []], ids=["no JSON", "no chunk", "nothing"])
def test_whatever_else_comes_as_a_stream_is_a_server_error(server, events) -> None:
    server.script = [streamed([*chunks()[:2], *events])]
    with pytest.raises(ServerError) as caught:
        list(server.engine().stream(QUESTION))
    assert caught.value.partial == "It "
    assert caught.value.request_id == server.headers[0]["x-request-id"]


def test_a_reply_without_end_is_dropped(server, monkeypatch) -> None:
    monkeypatch.setattr("sda_engine.remote.connection._MAX_REPLY_BYTES", 4096)
    server.script = [streamed([" " * 5000])]
    with pytest.raises(ServerError, match="more than 4 KiB"):
        list(server.engine(api_key="a-connection-of-its-own").stream(QUESTION))


def test_a_server_that_tells_no_window_is_none_of_ours(server) -> None:
    server.card = Response(json.dumps({"id": "m", "created": 0}), mimetype="application/json")
    with pytest.raises(ServerError, match="does not tell the context window"):
        _ = server.engine().context_window


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = RemoteEngine(f"http://127.0.0.1:{port}/v1", model="m", max_retries=0)
    with pytest.raises(
        ServerError, match=f"127.0.0.1:{port}/v1 could not be reached.*whether the server runs"
    ) as caught:
        engine.generate(QUESTION)
    assert caught.value.status is None


def test_a_server_without_tls_is_told_from_one_that_is_not_there(server) -> None:
    with pytest.raises(ServerError, match=r"could not be reached: .*Does it speak https at all"):
        RemoteEngine(server.url.replace("http", "https"), model="m", max_retries=0).generate(QUESTION)


def broken_stream(connection: socket.socket) -> None:
    """The beginning of a stream, before the connection is closed in the middle of a chunk."""
    text = "".join(f"data: {one}\n\n" for one in chunks()[:3])
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(f"{head}{len(text):x}\r\n{text}\r\nff\r\nda".encode())


@pytest.mark.parametrize("ended", ["in a chunk", "between chunks"])
def test_a_stream_that_breaks_off_leaves_what_came_and_is_not_asked_for_again(server, ended) -> None:
    server.script = [streamed(chunks()[:3], done=False)]
    raw = RawServer(broken_stream)
    engine = RemoteEngine(raw.url if ended == "in a chunk" else server.url, model="m")
    stream = engine.stream(QUESTION)
    texts = [next(stream).text, next(stream).text]
    with pytest.raises(ServerError, match=r"broke off|ended its stream before") as caught:
        next(stream)
    assert caught.value.partial == "".join(texts) == "It is "
    assert raw.connections + server.calls == 1
    raw.close()


async def test_the_asynchronous_stream_breaks_off_alike() -> None:
    raw = RawServer(broken_stream)
    with pytest.raises(ServerError, match="broke off") as caught:
        async for _ in RemoteEngine(raw.url, model="m").astream(QUESTION):
            pass
    assert caught.value.partial == "It is "
    raw.close()


def test_a_whole_reply_that_breaks_off_is_not_asked_for_again() -> None:
    raw = RawServer(lambda it: it.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"))
    with pytest.raises(ServerError, match="broke off in the middle of its reply"):
        RemoteEngine(raw.url, model="m").generate(QUESTION)
    assert raw.connections == 1
    raw.close()


def test_an_error_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(ServerError("gone", status=502, partial="It", request_id="7")))  # noqa: S301
    assert (str(error), error.status, error.partial, error.request_id) == ("gone", 502, "It", "7")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_its_own_connections(server) -> None:
    engine = server.engine()
    expected = engine.generate(QUESTION).text
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if engine.generate(QUESTION).text == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert engine.generate(QUESTION).text == expected


def test_a_stream_that_makes_no_sense_is_left_at_once(server, monkeypatch) -> None:
    left, events = [], Exchange.events

    async def watched(exchange, client, kind):
        try:
            async for event in events(exchange, client, kind):
                yield event
        finally:
            left.append(exchange)

    monkeypatch.setattr(Exchange, "events", watched)
    last = json.loads(chunks()[-2])  # the end of the answer, whose figures are missing
    server.script = [streamed([json.dumps({**last, "sda": None})])]
    with pytest.raises(ServerError, match="no figures of SDA"):
        list(server.engine().stream(QUESTION))
    assert len(left) == 1, "its connection would stay open for as long as somebody keeps the error"
