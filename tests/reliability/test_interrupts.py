"""Ctrl-C while a judge is asked: the process ends at once, and does not wait for the judge."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from sda_engine.evaluators import OpenAIEvaluator
from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.judges import RATED

SECONDS = 600  # that the judge could take
# To import takes seconds, so one process does, and forks for each line of its input. It tells the fork's number and end
SCRIPT = """
import asyncio, os, signal, sys
from sda_engine import Sampling, Steering
from sda_engine.evaluators import EnsembleEvaluator, FixedScore, OpenAIEvaluator
from sda_engine.testing import tiny_engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have their background processes ignore it
for line in sys.stdin:
    way, url, seconds, errors = line.split()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        break
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
else:
    sys.exit()
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


@pytest.fixture(scope="module")
def asker() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, bufsize=1, **pipes) as process:
        yield process


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send Ctrl-C to another alone, and none can fork")
@pytest.mark.parametrize("way", ["one judge", "ensemble", "async"])
def test_ctrl_c_ends_a_process_whose_judge_hangs(way: str, asker: subprocess.Popen[str], tmp_path: Path) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(_: socket.socket) -> None:
        asked.set()
        released.wait(SECONDS)

    server, errors = RawServer(hang), tmp_path / "errors.txt"
    asker.stdin.write(f"{way.split()[-1]} {server.url} {SECONDS} {errors}\n")
    process = int(asker.stdout.readline())
    too_late = threading.Timer(240, os.kill, (process, signal.SIGKILL))
    too_late.start()
    try:
        assert asked.wait(120)
        os.kill(process, signal.SIGINT)
    finally:
        status = int(asker.stdout.readline())
        too_late.cancel()
        released.set()
        server.close()
    assert "KeyboardInterrupt" in errors.read_text()
    assert status == -signal.SIGINT


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
