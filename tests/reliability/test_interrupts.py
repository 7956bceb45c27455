"""Ctrl-C while a judge is asked: the process ends at once, and does not wait for the judge."""

import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from sda_engine.evaluators import OpenAIEvaluator
from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.judges import RATED

SECONDS = 600  # that the judge could take
SCRIPT = """
import asyncio, signal, sys
from sda_engine import Sampling, Steering
from sda_engine.evaluators import EnsembleEvaluator, FixedScore, OpenAIEvaluator
from sda_engine.testing import tiny_engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have their background processes ignore it
url, seconds, way = sys.argv[1:]
judge = OpenAIEvaluator("judge", base_url=url, timeout=float(seconds))
if way == "ensemble":
    judge = EnsembleEvaluator([judge, judge, FixedScore(50)])
request = {"steering": Steering(evaluator=judge), "sampling": Sampling(max_new_tokens=2)}
question = [{"role": "user", "content": "who?"}]
if way == "async":
    asyncio.run(tiny_engine().agenerate(question, "honesty", **request))
else:
    tiny_engine().generate(question, "honesty", **request)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send Ctrl-C to another alone")
@pytest.mark.parametrize("way", ["one judge", "ensemble", "async"])
def test_ctrl_c_ends_a_process_whose_judge_hangs(way: str) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(_: socket.socket) -> None:
        asked.set()
        released.wait(SECONDS)

    server = RawServer(hang)
    command = [sys.executable, "-c", SCRIPT, server.url, str(SECONDS), way]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert asked.wait(120)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
            released.set()
            server.close()
    assert b"KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT


def test_an_interrupted_rating_drops_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, left = threading.Event(), threading.Event()

    def notice(connection: socket.socket) -> None:
        asked.set()
        while connection.recv(65536):  # the rest of the request
            pass
        left.set()

    result = Future.result

    def interrupt(future: Future[object], timeout: float | None = None) -> object:
        if threading.current_thread() is not threading.main_thread():
            return result(future, timeout)
        assert asked.wait(30)
        raise KeyboardInterrupt

    server = RawServer(notice)
    monkeypatch.setattr(Future, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        OpenAIEvaluator("judge", base_url=server.url, timeout=SECONDS).evaluate(RATED)
    assert left.wait(30), "the connection is still open"
    server.close()
