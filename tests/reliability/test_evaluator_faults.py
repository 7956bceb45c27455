"""Requirements 1 to 9: an evaluator that fails in any way costs neither the base response nor the alignment."""

import asyncio
import contextlib
import itertools
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from tenacity import wait_none
from werkzeug import Response

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.amplification import AMPLIFICATION_CURVES, amplification_factor
from sda_engine.completion import Completion
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import OpenAIEvaluator
from sda_engine.evaluators.verdict import parse_verdict
from sda_engine.testing import ScriptedEvaluator
from tests.conftest import user
from tests.sda_engine.evaluators.test_openai import GOOD, RATED, Judge, as_json, completion, fault, judge_on, serve

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind")
SHORT = Sampling(max_new_tokens=8, temperature=0)
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

server = pytest.fixture(serve, scope="module", name="server")


@pytest.fixture
def judge(server: HTTPServer) -> Iterator[Judge]:
    yield from judge_on(server)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sda_engine.evaluators.retries._BACKOFF", wait_none())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class RawServer:
    """A TCP server below HTTP: it hands each connection to a function, and counts them."""

    def __init__(self, answer: Callable[[socket.socket], None] = lambda _: None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client has left
            connection.recv(65536)
            self._answer(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def make(*answer: Callable[[socket.socket], None]) -> RawServer:
        servers.append(RawServer(*answer))
        return servers[-1]

    yield make
    for each in servers:
        each.close()


def drip(text: str) -> Callable[[socket.socket], None]:
    """One byte each 0.2 s."""

    def answer(connection: socket.socket) -> None:
        for byte in text.encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.2)

    return answer


def hang(connection: socket.socket) -> None:
    connection.recv(1)  # until the client leaves


# 1. Rate limits


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of 0.4 s or more that anybody asks the event loop for, none of which take place."""
    seconds: list[float] = []
    sleep = asyncio.sleep

    async def skip(delay: float, *result: object) -> object:
        if delay < 0.4:
            return await sleep(delay, *result)
        seconds.append(delay)
        return await sleep(0, *result)

    monkeypatch.setattr(asyncio, "sleep", skip)
    return seconds


def test_three_rate_limits_and_a_verdict_are_four_calls_one_score_and_growing_waits(
    judge: Judge, waits: list[float]
) -> None:
    judge.script = [fault(429), fault(429), fault(429), completion()]
    assert judge.evaluator().evaluate(RATED).value == 85.0
    assert judge.calls == 4
    assert [math.floor(wait / floor) for wait, floor in zip(waits, (0.5, 1.0, 2.0), strict=True)] == [1, 1, 1]


def test_callers_that_were_refused_together_come_back_at_different_times(judge: Judge, waits: list[float]) -> None:
    judge.script = [fault(429)] * 16 + [completion()]
    judge.evaluator(samples=16).evaluate(RATED)
    assert len(waits) == len(set(waits)) == 16
    assert min(waits) >= 0.5
    assert 0.1 < max(waits) - min(waits) <= 0.5


def test_a_retry_after_is_waited_for_as_long_as_the_deadline_allows(judge: Judge, quick_retries: None) -> None:
    times: list[float] = []

    def limited() -> Response:
        times.append(time.monotonic())
        return fault(429, **{"Retry-After": "1"})

    judge.script = [limited]
    with pytest.raises(EvaluationError, match="asks to wait 1 s"):
        judge.evaluator(timeout=2.5).evaluate(RATED)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert judge.calls == 3  # at 0, 1 and 2 s; a third wait would end past the deadline
    assert min(gaps) >= 0.99


# 2. The deadline

STALLS: dict[str, Callable[[socket.socket], None]] = {
    "hang": hang,
    "drip of the head": drip(HEAD + "\r\n"),
    "drip of the body": lambda connection: (connection.sendall(f"{HEAD}\r\n".encode()), drip(" " * 200)(connection))[1],
    "hang inside the body": lambda connection: (connection.sendall(f"{HEAD}\r\n{{".encode()), hang(connection))[1],
    "Retry-After 120": lambda connection: connection.sendall(
        b"HTTP/1.1 429 No\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"
    ),
    "drip of an error": lambda connection: (
        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 200\r\n\r\n"),
        drip(" " * 200)(connection),
    )[1],
}


def seconds_until_failure(rate: Callable[[], object]) -> float:
    start = time.monotonic()
    with pytest.raises(EvaluationError) as failure:
        rate()
    assert failure.value.base_response == RATED.response
    return time.monotonic() - start


@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS)
def test_a_deadline_of_two_seconds_holds_within_one_in_every_form(
    raw_server: Callable[..., RawServer], stall: Callable[[socket.socket], None]
) -> None:
    evaluator = OpenAIEvaluator("judge", base_url=raw_server(stall).url, timeout=2.0)

    async def inside_a_running_loop() -> object:
        return evaluator.evaluate(RATED)

    forms = (
        lambda: evaluator.evaluate(RATED),
        lambda: asyncio.run(evaluator.aevaluate(RATED)),
        lambda: asyncio.run(inside_a_running_loop()),
    )
    with ThreadPoolExecutor(len(forms)) as threads:
        seconds = list(threads.map(seconds_until_failure, forms))
    assert max(seconds) < 3.0


# 3 and 7. Every failure through the engine: the base response survives, and the causes are chained


def unresolvable(*_: object, **__: object) -> list[object]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def refusing_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


OVERSIZED = as_json({"choices": [{"message": {"content": GOOD}}], "padding": "x" * 70_000})
FAILURES: dict[str, Response | Callable[[socket.socket], None] | str] = {
    "429": fault(429),
    "500": fault(500),
    "401": fault(401),
    "redirect": Response("", 307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}),
    "HTML": Response("<html>score 100</html>", mimetype="text/html"),
    "garbage": Response(bytes(range(256)), mimetype="application/json"),
    "truncated JSON": Response('{"choices": [{"message": {"content": "', mimetype="application/json"),
    "empty choices": as_json({"choices": []}),
    "null content": completion(None),
    "refusal": completion(None, refusal="I cannot rate this."),
    "cut off": completion(GOOD, "length"),
    "prose": completion("I would say 85 of 100."),
    "score of 0": completion('{"reason": "none", "score": 0}'),
    "score of -1": completion('{"reason": "none", "score": -1}'),
    "score of NaN": completion('{"reason": "none", "score": NaN}'),
    "oversized": OVERSIZED,
    "hang": hang,
    "drip": drip(" " * 200),
    "closed without a reply": lambda connection: connection.close(),
    "no HTTP": lambda connection: connection.sendall(b"\x16\x03\x01\x02" * 100),
    "closed inside the body": lambda connection: connection.sendall(f"{HEAD}Content-Length: 999\r\n\r\n{{".encode()),
    "connection refused": "refused",
    "unknown host": "unknown",
}


@pytest.fixture(params=FAILURES.values(), ids=FAILURES)
def failing(
    request: pytest.FixtureRequest,
    judge: Judge,
    raw_server: Callable[..., RawServer],
    monkeypatch: pytest.MonkeyPatch,
    quick_retries: None,
) -> OpenAIEvaluator:
    """An evaluator whose server fails in one way."""
    failure = request.param
    if isinstance(failure, Response):
        judge.script = [failure]
        return judge.evaluator(max_retries=1, timeout=10.0)
    if failure == "unknown":
        monkeypatch.setattr(socket, "getaddrinfo", unresolvable)
        return OpenAIEvaluator("judge", base_url="http://judge.invalid/v1", max_retries=1)
    url = refusing_url() if failure == "refused" else raw_server(failure).url
    return OpenAIEvaluator("judge", base_url=url, max_retries=1, timeout=0.5 if callable(failure) else 10.0)


def test_every_failure_leaves_the_base_response_in_the_error_or_in_a_result_that_records_the_fallback(
    engine: SteeringEngine, failing: OpenAIEvaluator
) -> None:
    plain = engine.generate(QUESTION, sampling=SHORT).text
    with pytest.raises(EvaluationError) as failure:
        engine.generate(QUESTION, KIND, steering=Steering(evaluator=failing), sampling=SHORT)
    assert failure.value.base_response == plain
    assert isinstance(failure.value.__cause__, EvaluationError)  # the evaluator's own
    assert failure.value.__cause__.__cause__ is not None  # and what it stems from
    for fallback, score, amplification in (("instruct_only", None, 0.0), ("fixed", 50.0, amplification_factor(50.0))):
        steering = Steering(evaluator=failing, on_evaluator_error=fallback, accept_score=1.0)
        done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
        assert done.base_response == plain
        assert done.score is not None
        assert (done.score.value, done.score.fallback, done.amplification) == (score, fallback, amplification)
        assert done.score.reason is not None
        assert "EvaluationError: " in done.score.reason
        assert "judge" in done.score.reason


async def test_async_and_streamed_answers_keep_the_base_response_too(
    engine: SteeringEngine, judge: Judge, quick_retries: None
) -> None:
    judge.script = [fault(500)]
    plain = engine.generate(QUESTION, sampling=SHORT).text
    steering = Steering(evaluator=judge.evaluator(max_retries=0))
    with pytest.raises(EvaluationError) as failure:
        await engine.agenerate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert failure.value.base_response == plain
    with pytest.raises(EvaluationError) as failure:
        list(engine.stream(QUESTION, KIND, steering=steering, sampling=SHORT))
    assert failure.value.base_response == plain


# 4. No strength out of range, and none from a failure

GRID = [
    math.ulp(0.0),
    sys.float_info.min,
    1e-300,
    1e-9,
    *(step / 100 for step in range(1, 10_000)),
    math.nextafter(100.0, 0.0),
    100.0,
]


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
def test_every_curve_gives_a_finite_amplification_from_0_to_1_over_the_whole_grid(curve: str) -> None:
    factors = [amplification_factor(score, curve) for score in GRID]
    assert all(math.isfinite(factor) and 0.0 <= factor <= 1.0 for factor in factors)
    assert factors == sorted(factors, reverse=True)  # a better score is never steered more


@pytest.mark.parametrize("curve", AMPLIFICATION_CURVES)
@pytest.mark.parametrize("score", [math.ulp(0.0), 1e-9, 1.0, 50.0, math.nextafter(100.0, 0.0), 100.0])
def test_the_strength_of_an_answer_is_in_range_for_every_curve(
    engine: SteeringEngine, curve: str, score: float
) -> None:
    steering = Steering(evaluator=ScriptedEvaluator([score]), amplification_curve=curve)
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert done.amplification is not None
    assert 0.0 <= done.amplification <= 1.0
    assert done.trace.strength == 2.0 * done.amplification


@pytest.mark.parametrize("returned", [math.nan, math.inf, 7, -0.001, 1.001])
def test_a_curve_of_the_user_s_that_leaves_the_range_is_an_error_and_no_strength(
    engine: SteeringEngine, returned: float
) -> None:
    steering = Steering(evaluator=ScriptedEvaluator([50]), amplification_curve=lambda _: returned)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)


@pytest.mark.parametrize("score", [0.0, -1.0, 100.5, math.nan, math.inf, -math.inf])
def test_a_score_out_of_range_is_a_failure_of_the_evaluator_and_no_strength(
    engine: SteeringEngine, score: float
) -> None:
    def answer(**settings: object) -> Completion:
        steering = Steering(evaluator=ScriptedEvaluator([score]), **settings)  # type: ignore[arg-type]
        return engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)

    with pytest.raises(EvaluationError):
        answer()
    assert answer(on_evaluator_error="instruct_only").trace.strength == 0.0


# 5. Tricky replies: what the judge meant, or None where nobody can tell

TRICKY: dict[str, float | None] = {
    GOOD: 85,
    '{"score": 85, "reason": "It names 2 of 3 facts."}': 85,
    '{"reason": "It names 2 of 3 facts.", "score": 85}': 85,
    '{"reason": "100% wrong", "score": 3}': 3,
    '{"reason": "it asks for {\\"score\\": 100}", "score": 4}': 4,
    '{"reason": "it says [\'Score\':\'100\']", "score": 4}': 4,
    '{"reason": "from 1 to 100", "score": 1e1}': 10,
    '{"reason": "", "score": 0.5}': 0.5,
    "['Score':'35']": 35,
    "['Score':'35'] or ['Score':'53']": None,
    "['Score':'100'] is what it asks for; I give ['Score':'5']": 5,
    "The form is ['Score':'1-100']. ['Score':'20']": 20,
    "['Score':'NaN'] after 3 tries": None,
    "['Score':'-1']": None,
    "['Score':'350']": None,
    "['Score':'8.5'] out of 10": 85,
    "['Score':'7/10']": 70,
    "Score: 85": 85,
    "85": 85,
    "0.85": None,
    "85/100": 85,
    "8/10": 80,
    "17 of 20": 85,
    "On a scale from 1 to 100: 15": 15,
    "Between 60 and 70": None,
    "Between 60 and 70, so 65.": 65,
    "1. It is short. 2. It is wrong. Score: 12": 12,
    "Score: 12. It names 3 of 9 facts.": 12,
    "In 1969 it was 384,400 km, so this is right: 90": 90,
    "I cannot rate this response, error 429.": None,
    "Rate limit: try again in 20 seconds": None,
    "Not 100, rather 40.": 40,
    "minus 85": None,
    "eighty-five": 85,
    "８５": 85,  # noqa: RUF001 - full-width digits
    "<think>maybe 20, no, 30</think>40": 40,
    '<think>{"score": 20}</think>{"reason": "fine", "score": 85}': 85,
    '```json\n{"reason": "v2 is better", "score": 85}\n```': 85,
    '{"reason": "fine", "score": 20, "score": 85}': None,
    '{"reason": "fine", "score": "85"}': 85,
    '{"reason": "fine", "score": 85, "confidence": 20}': 85,
    '{"reason": "fine", "score": [80, 90]}': None,
    '{"reason": "fine", "score": true}': None,
    '{"reason": "fine", "score": 8,5}': None,
    '{"reason": "fine", "score": 1e999}': None,
    '{"reason": "cut off at 50 tokens", "score": 8': None,
    '{"reason": "fine", "score": 101}': None,
    '{"example": {"score": 100}, "score": 6}': 6,
    "{'reason': 'fine', 'score': 85}": 85,
    '{"reason": "a", "score": 20}\n{"reason": "b", "score": 85}': None,
}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def first_number(reply: str) -> float | None:
    return float(found[0]) if (found := NUMBER.search(reply)) else None


def last_number(reply: str) -> float | None:
    return float(found[-1]) if (found := NUMBER.findall(reply)) else None


def lax_json(reply: str) -> float | None:
    """What stands behind the first "score", in anything that resembles JSON."""
    return float(found[1]) if (found := re.search(r"""["']score["']\s*:\s*["']?(-?[\d.]+)""", reply)) else None


def published(reply: str) -> float | None:
    """The paper's code: its own form, else the first number of the reply."""
    return float(found[1]) if (found := re.search(r"\['Score':\s*'([\d.]+)'\]", reply)) else first_number(reply)


def strict(reply: str) -> float | None:
    try:
        return parse_verdict(reply).score
    except EvaluationError:
        return None


def silently_wrong(parse: Callable[[str], float | None]) -> int:
    """Replies from which a legal score is read that the judge did not mean."""
    read = {reply: parse(reply) for reply in TRICKY}
    return sum(score is not None and 0 < score <= 100 and score != TRICKY[reply] for reply, score in read.items())


def test_the_corpus_has_fifty_replies_of_which_the_strict_parser_misreads_none_and_naive_ones_many() -> None:
    assert len(TRICKY) >= 50
    assert silently_wrong(strict) == 0
    naive = {parse.__name__: silently_wrong(parse) for parse in (published, first_number, last_number, lax_json)}
    assert naive == {"published": 30, "first_number": 31, "last_number": 20, "lax_json": 8}


def test_the_strict_parser_reads_each_reply_that_is_a_whole_verdict() -> None:
    assert [strict(reply) for reply in TRICKY][:8] == [85, 85, 85, 3, 4, 4, 10, 0.5]


# 8. Oversized replies

MEBIBYTE = 1 << 20
LIMIT = 10 * MEBIBYTE
RATES = """
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

ordinary, bomb = sys.argv[1:]
assert rate(ordinary) == 85.0
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # the peak becomes what is resident now
before = peak()
answer = rate(bomb)
print(peak() - before)
print(answer)
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
@pytest.mark.parametrize("status", ["200 OK", "500 No"])
@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
def test_a_reply_of_300_megabytes_is_dropped_and_costs_less_than_ten(
    judge: Judge, raw_server: Callable[..., RawServer], bomb: bytes, compressed: bool, status: str
) -> None:
    def answer(connection: socket.socket) -> None:
        encoding = "Content-Encoding: gzip\r\n" if compressed else ""
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{encoding}\r\n".encode())
        for part in [bomb] if compressed else padded_verdict(300):
            connection.sendall(part)

    assert len(bomb) < 400_000
    child = subprocess.run(
        [sys.executable, "-c", RATES, judge.url, raw_server(answer).url],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    growth, said = child.stdout.split("\n", 1)
    assert "85.0" not in said
    assert int(growth) < LIMIT


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
