"""Fixtures for all tests: tiny engines for the quick ones, the real 135M model for those marked slow.

The process that hands the tests out reads this file too, before any other starts. So what takes seconds to import is
imported by the fixtures.
"""

import asyncio
import gc
import inspect

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.reliability", "tests.sda_engine", "tests.sda_integrations")  # helpers too

collect_ignore = ["vllm"]  # needs vLLM's own environment: make test-vllm

settings.register_profile("no-clock", deadline=None)  # a busy machine must not fail a test
settings.load_profile("no-clock")


def pytest_collection_modifyitems(items):
    """The slow tests first: few processes load the real model, and none is left with a long test at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


def pytest_collection_finish():
    """What is imported by now stays: the many tests that collect garbage need not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request):
    """Splitting the work of a tiny model over cores costs more than the work."""
    import torch

    before = torch.get_num_threads()
    if "slow" not in request.keywords:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def published_formulas(request, monkeypatch):
    """Where no policy is named, the paper's, but in tests of what users get: most are about one decoding."""
    if "default_policy" not in request.keywords:
        monkeypatch.setattr("sda_engine.config._AUTO", {True: "paper", False: "paper"})


@pytest.fixture
def no_event_loop_is_left_behind(request):
    """LlamaIndex's sync calls make an event loop and never close it, unless told that there is none."""
    if not inspect.iscoroutinefunction(request.function):
        asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def engine():
    from sda_engine.testing import tiny_engine

    with tiny_engine() as engine:
        yield engine


@pytest.fixture
def loads(monkeypatch, engine):
    """SteeringEngine.load gives the tiny engine, and notes what it was asked for."""
    from sda_engine import SteeringEngine

    requests = []

    def load(model, **settings):
        requests.append((model, settings))
        return engine

    monkeypatch.setattr(SteeringEngine, "load", load)
    return requests


@pytest.fixture(scope="session")
def tokenizer():
    from sda_engine.testing import tiny_tokenizer
    from sda_engine.tokens.tokenizer import SafeTokenizer

    return SafeTokenizer(tiny_tokenizer())


@pytest.fixture(scope="session")
def smollm2_float32():
    from sda_engine import SteeringEngine

    with SteeringEngine.load("smollm2-135m", dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="session")
def smollm2(request):
    """As it is loaded by default: where the processor has no bfloat16 of its own, that is the one in float32."""
    import torch

    from sda_engine import SteeringEngine
    from sda_engine.models.devices import resolve_dtype

    if resolve_dtype("auto", torch.device("cpu")) == torch.float32:
        yield request.getfixturevalue("smollm2_float32")
        return
    with SteeringEngine.load("smollm2-135m") as engine:
        yield engine


def user(text):
    """A chat of one user turn."""
    return [{"role": "user", "content": text}]
