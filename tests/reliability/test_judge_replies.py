"""Requirements 8 and 9: oversized replies are dropped, and nothing in a reply leads to another origin."""

import itertools
import json
import os
import socket
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from werkzeug import Response

from sda_engine.errors import EvaluationError
from tests.reliability.raw_server import RawServer
from tests.sda_engine.evaluators.judges import GOOD, RATED, Judge, as_json

pytestmark = pytest.mark.usefixtures("clean_environment")

# 8. Oversized replies

MEBIBYTE = 1 << 20
LIMIT = 10 * MEBIBYTE
RATES = """
import json
import sys
from sda_engine.alignment import PRESETS
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import EvaluationRequest, OpenAIEvaluator

def rate(url):
    evaluator = OpenAIEvaluator("judge", base_url=url, max_retries=0, timeout=120.0)
    request = EvaluationRequest([{"role": "user", "content": "2 + 2?"}], "Four.", PRESETS["honesty"])
    try:
        return evaluator.evaluate(request).value
    except EvaluationError as error:
        return str(error)

def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

ordinary, *bombs = sys.argv[1:]
assert rate(ordinary) == 85.0
told = []
for bomb in bombs:
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak becomes what is resident now
    before = peak()
    answer = rate(bomb)
    told.append([peak() - before, answer])
print(json.dumps(told))
"""


def padded_verdict(mebibytes: int) -> Iterator[bytes]:
    """A reply that would be a verdict, were it not so long."""
    yield b'{"choices": [{"message": {"content": "{\\"reason\\": \\"fine\\", \\"score\\": 85}"}}], "padding": "'
    for _ in range(mebibytes):
        yield b" " * MEBIBYTE
    yield b'"}'


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """300 MB that take 300 kB on the wire."""
    compressor = zlib.compressobj(9, wbits=31)
    parts = [compressor.compress(part) for part in padded_verdict(300)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured by Linux's /proc")
def test_a_reply_of_300_megabytes_is_dropped_and_costs_less_than_ten(
    judge: Judge, raw_server: Callable[..., RawServer], bomb: bytes
) -> None:
    def answer(compressed: bool, status: str, connection: socket.socket) -> None:
        encoding = "Content-Encoding: gzip\r\n" if compressed else ""
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{encoding}\r\n".encode())
        for part in [bomb] if compressed else padded_verdict(300):
            connection.sendall(part)

    assert len(bomb) < 400_000
    kinds = list(itertools.product([True, False], ["200 OK", "500 No"]))  # in one process: to start one takes seconds
    bombs = [raw_server(partial(answer, compressed, status)).url for compressed, status in kinds]
    child = subprocess.run(
        [sys.executable, "-c", RATES, judge.url, *bombs],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for kind, (growth, said) in zip(kinds, json.loads(child.stdout), strict=True):
        assert isinstance(said, str), kind  # what was wrong, and no score
        assert growth < LIMIT, kind


@pytest.mark.parametrize(("padding", "fits"), [(64_000, True), (66_000, False)])
def test_a_reply_is_dropped_from_64_kibibytes_on(judge: Judge, padding: int, fits: bool) -> None:
    judge.script = [as_json({"choices": [{"message": {"content": GOOD}}], "padding": "x" * padding})]
    evaluator = judge.evaluator(max_retries=0)
    if fits:
        assert evaluator.evaluate(RATED).value == 85.0
        return
    with pytest.raises(EvaluationError, match="more than 64 KiB") as failure:
        evaluator.evaluate(RATED)
    assert "xxxx" not in "".join(traceback.format_exception(failure.value))


# 9. Redirects


@pytest.mark.parametrize("status", [200, 201, 300, 301, 302, 303, 304, 305, 307, 308])
def test_no_header_of_a_reply_makes_the_evaluator_connect_to_another_origin(
    judge: Judge, raw_server: Callable[..., RawServer], status: int, quick_retries: None
) -> None:
    elsewhere = raw_server()
    target = f"{elsewhere.url}/chat/completions"
    headers = {
        "Location": target,
        "Content-Location": target,
        "Refresh": f"0; url={target}",
        "Link": f'<{target}>; rel="canonical"',
        "Alt-Svc": f'h2="{elsewhere.url.split("/")[2]}"; ma=86400',
    }
    judge.script = [Response(f'<meta http-equiv="refresh" content="0; url={target}">', status, headers)]
    for _ in range(2):  # the second rating could obey what the first one was told
        with pytest.raises(EvaluationError):
            judge.evaluator(api_key="sk-canary-0123456789", max_retries=1).evaluate(RATED)
    assert elsewhere.connections == 0
