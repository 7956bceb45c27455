"""Requirement 30: malformed requests. None is a fault of the server's, and nothing is left of them."""

import collections
import gc

import httpx
import psutil
import pytest

from sda_engine import EngineSettings, Sampling, SteeringEngine
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.server import ServerLimits, ServerSettings, make_app
from tests.reliability.hostile_requests import CHAT, hostile_request, send
from tests.sda_engine.decoding.company import check_nothing_is_left, count_rows, dice
from tests.sda_integrations.server.answers import wait_until
from tests.servers import serving_app
from tests.sizes import size

SETTINGS = ServerSettings(
    served_model_name="tiny",
    sampling=Sampling(max_new_tokens=4),
    limits=ServerLimits(body_bytes=2**20),
)
GOOD = {name: value for name, value in CHAT.items() if not name.startswith("stream")}


@pytest.fixture
def engine():
    """Of a short window, so that no answer is long whatever a request says."""
    model, settings = tiny_model(context_window=128), EngineSettings(prefix_cache=False)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        yield engine


def send_many(url, rng, count):
    """Send until so many have not been answered well, and tell how often each status came back; 0 stands for none."""
    counts = collections.Counter()
    while counts.total() - counts[200] < count:
        counts.update(set(send(url, hostile_request(rng))) or {0})
    return counts


def test_a_thousand_malformed_requests_are_no_fault_of_the_server_and_leave_nothing_behind(engine, caplog):
    app = make_app(engine, SETTINGS)
    process, rng = psutil.Process(), dice(30)
    with serving_app(app) as (url, server):

        def settle():
            wait_until(lambda: engine.stats().requests == 0 and not server.server_state.connections)
            wait_until(lambda: app.state.service.draining.running == len(server.server_state.tasks) == 0)
            check_nothing_is_left(engine)
            caplog.clear()  # uvicorn has a line for each that is no HTTP
            gc.collect()

        def answer():
            with httpx.Client() as client:
                return client.post(f"{url}/v1/chat/completions", json=GOOD).json()["choices"]

        before = answer()
        send_many(url, rng, 60)  # what is made once has been made
        settle()
        rows, files, threads = count_rows(), process.num_fds(), process.num_threads()
        objects, resident = len(gc.get_objects()), process.memory_info().rss
        counts = send_many(url, rng, size(1_000, 200))
        after = answer()
        settle()
        assert after == before
        assert not [status for status in counts if status >= 500], counts
        assert {200, 400, 404, 405, 413, 415, 431}.issubset(counts)
        assert count_rows() <= rows
        assert process.num_fds() <= files
        assert process.num_threads() <= threads
        # One that were left would hold dozens. What comes is counters, one for each route and status
        assert len(gc.get_objects()) - objects < 2 * counts.total()
        assert process.memory_info().rss - resident < 50_000_000
