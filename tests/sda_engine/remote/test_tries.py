"""When a RemoteEngine sends a request again, and when it does not."""

import time
from asyncio.selector_events import BaseSelectorEventLoop
from typing import Any

import pytest

from sda_engine import RemoteEngine
from sda_engine.errors import (
    ConfigError,
    EngineClosedError,
    EvaluationError,
    QueueFullError,
    RequestTimeoutError,
    SDAError,
    ServerError,
)
from tests.conftest import user
from tests.reliability.raw_server import RawServer
from tests.sda_engine.remote.scripted import DONE, chunks, fault, streamed, told, whole

QUESTION = user("Is the earth flat?")
PASSING = {
    "full": told(QueueFullError("full")),
    "shutting down": told(EngineClosedError("closed")),
    **{str(status): fault(status) for status in (429, 502, 503, 504)},
}
LASTING = {
    "wrong value": (told(ConfigError("wrong")), ConfigError),
    "late": (told(RequestTimeoutError("late")), RequestTimeoutError),
    "unrated": (told(EvaluationError("no score")), EvaluationError),
    "fault": (told(SDAError("fault")), ServerError),
    **{str(status): (fault(status), ServerError) for status in (400, 404, 408, 409, 422, 500, 501)},
    "do not": (fault(503, x_should_retry="false"), ServerError),
    "do not, full": (told(QueueFullError("full"), x_should_retry="false"), QueueFullError),
}


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(server, reply) -> None:
    server.script = [reply, reply, whole()]
    assert server.engine().generate(QUESTION).text == DONE.text
    assert server.calls == 3


@pytest.mark.parametrize("reply", LASTING.values(), ids=LASTING)
def test_what_lasts_is_not(server, reply) -> None:
    server.script = [reply[0], whole()]
    with pytest.raises(reply[1]):
        server.engine().generate(QUESTION)
    assert server.calls == 1


@pytest.mark.parametrize("most", [0, 1])
def test_tries_are_counted_and_the_last_failure_is_raised(server, most) -> None:
    server.script = [told(QueueFullError("full"))]
    with pytest.raises(QueueFullError):
        server.engine(max_retries=most).generate(QUESTION)
    assert server.calls == most + 1


def test_a_stream_is_tried_again_before_it_begins_and_not_after(server) -> None:
    server.script = [fault(503), streamed(chunks()[:2], done=False), whole()]
    stream = server.engine().stream(QUESTION)
    assert next(stream).text == "It "
    with pytest.raises(ServerError):
        next(stream)
    assert server.calls == 2


def test_a_connection_that_is_lost_before_the_reply_is_made_again(server) -> None:
    lost = RawServer()  # which closes each connection as soon as the request has come
    with pytest.raises(ServerError, match="could not be reached"):
        RemoteEngine(lost.url, model="m").generate(QUESTION)
    assert lost.connections == 3
    lost.close()


def test_a_server_that_starts_meanwhile_is_found(server, monkeypatch) -> None:
    connect, tries = BaseSelectorEventLoop.sock_connect, []

    async def not_yet(loop: BaseSelectorEventLoop, *address: Any) -> None:
        tries.append(address)
        if len(tries) < 3:
            raise ConnectionRefusedError
        await connect(loop, *address)

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", not_yet)
    assert server.engine(api_key="a-connection-of-its-own").generate(QUESTION).text == DONE.text
    assert len(tries) == 3


def test_the_server_says_how_long_to_wait(server) -> None:
    server.script = [fault(429, retry_after="0.3"), whole()]
    began = time.monotonic()
    server.engine().generate(QUESTION)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("wait", ["120", "inf"])
def test_a_wait_that_would_pass_the_deadline_is_not_begun(server, wait) -> None:
    server.script = [told(QueueFullError("full"), retry_after=wait)]
    with pytest.raises(QueueFullError):
        server.engine().generate(QUESTION, timeout=30)
    assert server.calls == 1


def test_each_try_tells_the_server_what_is_left_of_the_time(server) -> None:
    server.script = [fault(503, retry_after="0.2"), whole()]
    server.engine().generate(QUESTION, timeout=30)
    first, second = (body["sda"]["timeout"] for body in server.bodies)
    assert second <= first - 0.2


def test_all_tries_of_a_request_have_one_id_and_another_request_has_its_own(server) -> None:
    server.script = [fault(503), whole()]
    engine = server.engine()
    engine.generate(QUESTION)
    engine.generate(QUESTION)
    first, again, other = (headers["x-request-id"] for headers in server.headers)
    assert first == again != other


def test_facts_are_tried_again_too(server) -> None:
    replies = [fault(503), server.card]
    server.card = lambda: replies.pop(0)
    assert server.engine().context_window == 77
