"""Fixtures for the tests of all adapters: chat templates that refuse turns, and one that may think."""

import gc

import pytest

from sda_engine.testing import tiny_engine
from tests.families import TEMPLATES


@pytest.fixture(params=("Gemma 2", "Gemma 3", "Mistral 1", "Phi 3"))
def template(request):
    return TEMPLATES[request.param][1]


@pytest.fixture(scope="module")
def thinker():
    with tiny_engine(chat_template=TEMPLATES["Qwen 3"][1]) as engine:
        yield engine


@pytest.fixture
def left_streams_are_collected():
    yield
    gc.collect()
