"""Fixtures of the LlamaIndex adapter's tests."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.memory import ChatMemoryBuffer

from sda_engine.testing import ScriptedEngine
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.llama_index.asking import OPENING


@pytest.fixture(autouse=True)
def everywhere(no_event_loop_is_left_behind):
    """Every test here makes sync calls of LlamaIndex, or may."""


@pytest.fixture
def scripted():
    return ScriptedEngine("Goethe wrote Faust.")


@pytest.fixture
def llm(scripted):
    return SDALLM(engine=scripted)


@pytest.fixture
def scripted_llm() -> Callable[..., SDALLM]:
    """An SDALLM over an engine that answers with the given texts."""

    def make(*script, chat_template=None, **fields):
        template = {} if chat_template is None else {"chat_template": chat_template}
        return SDALLM(engine=ScriptedEngine(script, **template), **fields)

    return make


@pytest.fixture
def index() -> VectorStoreIndex:
    return VectorStoreIndex.from_documents([Document(text=OPENING)], embed_model=MockEmbedding(embed_dim=8))


@pytest.fixture
def make_memory() -> Callable[[SDALLM], ChatMemoryBuffer]:
    """A memory in place of LlamaIndex's default, which leaves a database open."""
    return lambda llm: ChatMemoryBuffer.from_defaults(llm=llm)


class Seen(BaseEventHandler):
    """Keeps the events."""

    events: list[Any]

    @classmethod
    def class_name(cls):
        return "Seen"

    def handle(self, event, **kwargs):
        self.events.append(event)


@pytest.fixture
def events() -> Sequence[Any]:
    """The events of LlamaIndex's instrumentation, as they come."""
    handler = Seen(events=[])
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler.events
    root.event_handlers.remove(handler)
