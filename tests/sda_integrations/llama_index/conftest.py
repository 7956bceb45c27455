"""Fixtures of the LlamaIndex adapter's tests."""

import asyncio
import inspect

import pytest
from scripted_engine import ScriptedEngine

from sda_integrations.llama_index import SDALLM


@pytest.fixture(autouse=True)
def no_event_loop_is_left_behind(request):
    """LlamaIndex's sync calls make an event loop and never close it, unless told that there is none."""
    if not inspect.iscoroutinefunction(request.function):
        asyncio.set_event_loop(None)


@pytest.fixture
def scripted():
    return ScriptedEngine("Goethe wrote Faust.")


@pytest.fixture
def llm(scripted):
    return SDALLM(engine=scripted)
