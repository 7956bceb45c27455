"""What tests of the answering routes share: engines that wait, clients that hang up, events as they came."""

import json
import socket
import threading
import time
from contextlib import contextmanager

from sda_engine import EngineSettings, SteeringEngine
from sda_engine.testing import tiny_model, tiny_tokenizer

QUESTION = [{"role": "user", "content": "What is in the library?"}]
GREEDY = {"temperature": 0, "max_tokens": 8}


class Gate:
    """A temperature schedule that waits before each token until the test lets it through.

    Attributes:
        seen: tokens that have come to the gate.
    """

    def __init__(self):
        self.seen = 0
        self._permits = threading.Semaphore(0)

    def __call__(self, signals):
        self.seen += 1
        assert self._permits.acquire(timeout=60)
        return signals.temperature

    def let_through(self, tokens):
        """So many tokens more may be chosen."""
        self._permits.release(tokens)


def endless_engine(**settings):
    """An engine on a model that never ends an answer by itself."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    return SteeringEngine(model, tiny_tokenizer(), name="endless", settings=EngineSettings(**settings))


def wait_until(condition):
    """Until it is so; a minute at most, since a busy machine must not fail a test."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to it"
        time.sleep(0.002)


@contextmanager
def connection(url, path, **body):
    """A connection on which a request has been sent, and which is closed at the end, whatever has come by then."""
    host, port = url.removeprefix("http://").split(":")
    text = json.dumps(body)
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
        client.sendall(f"{head}\r\n\r\n{text}".encode())
        yield client


def events_of(text):
    """The data of each event of a stream; of comments, nothing."""
    lines = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
