"""Callbacks and instrumentation events, for whole answers and for streams, finished, closed and failed."""

import gc

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.llms import ChatMessage
from scripted_engine import METHODS, STREAMING, ScriptedEngine, ask, text_of

from sda_engine.errors import RequestTimeoutError
from sda_integrations.llama_index import SDALLM


class Recorder(BaseCallbackHandler):
    """Keeps what it is told of LLM calls."""

    def __init__(self):
        super().__init__([], [])
        self.started, self.ended = [], []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        if event_type == CBEventType.LLM:
            self.started.append(payload)
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        if event_type == CBEventType.LLM:
            self.ended.append(payload)

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass


class EventNames(BaseEventHandler):
    """Keeps the names of events, once it has written them as JSON."""

    names: list[str]

    @classmethod
    def class_name(cls):
        return "EventNames"

    def handle(self, event, **kwargs):
        if not isinstance(event, ExceptionEvent):
            event.model_dump_json()
        self.names.append(event.class_name())


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def events():
    handler = EventNames(names=[])
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler.names
    root.event_handlers.remove(handler)


def ending(payload):
    """The response in an end event."""
    return payload.get(EventPayload.RESPONSE) or payload.get(EventPayload.COMPLETION)


async def read_one(llm, method):
    """Read the first response of a stream, then close it."""
    stream = getattr(llm, method)([ChatMessage(content="Hi")] if "chat" in method else "Hi")
    if method.startswith("a"):
        stream = await stream
        first = await anext(stream)
        await stream.aclose()
    else:
        first = next(stream)
        stream.close()
    return first


@pytest.mark.parametrize("method", METHODS)
async def test_callbacks_and_events_start_and_end_once(scripted, recorder, events, method):
    llm = SDALLM(engine=scripted, alignment="honesty", callback_manager=CallbackManager([recorder]))
    responses = await ask(llm, method)
    (started,), (ended,) = recorder.started, recorder.ended
    assert started[EventPayload.SERIALIZED] == llm.to_payload()
    assert text_of(ending(ended)) == "Goethe wrote Faust."
    assert ending(ended).raw == responses[-1].raw
    kind = "LLMChat" if "chat" in method else "LLMCompletion"
    progress = [f"{kind}InProgressEvent"] * (4 if method in STREAMING else 0)
    spans = [name for name in events if name.startswith("LLM")]
    assert spans == [f"{kind}StartEvent", *progress, f"{kind}EndEvent"]


@pytest.mark.parametrize("method", METHODS)
async def test_the_token_counting_handler_gets_the_counts(engine, method):
    counter = TokenCountingHandler(tokenizer=engine.encode)
    llm = SDALLM(engine=engine, max_tokens=5, seed=1, callback_manager=CallbackManager([counter]))
    usage = (await ask(llm, method))[-1].raw["usage"]
    (counted,) = counter.llm_token_counts
    assert counted.prompt_token_count == usage["prompt_tokens"]
    assert counted.completion_token_count == usage["completion_tokens"]


@pytest.mark.parametrize("method", STREAMING)
async def test_a_stream_closed_early_ends_with_the_partial_answer(scripted, recorder, events, method):
    llm = SDALLM(engine=scripted, callback_manager=CallbackManager([recorder]))
    first = await read_one(llm, method)
    assert text_of(first) == "Goethe"
    assert scripted.closed_early == 1
    (ended,) = recorder.ended
    assert EventPayload.EXCEPTION not in ended
    assert text_of(ending(ended)) == "Goethe"
    assert "ExceptionEvent" not in events
    assert [name for name in events if name.endswith("EndEvent")] == [
        "LLMChatEndEvent" if "chat" in method else "LLMCompletionEndEvent"
    ]


def test_a_stream_that_is_dropped_ends_too(scripted, recorder):
    llm = SDALLM(engine=scripted, callback_manager=CallbackManager([recorder]))
    for _ in llm.stream_complete("Hi"):
        break
    gc.collect()
    assert scripted.closed_early == 1
    assert EventPayload.EXCEPTION not in recorder.ended[0]


@pytest.mark.parametrize("method", STREAMING)
async def test_closing_a_stream_of_a_real_engine_leaves_it_ready(engine, method):
    llm = SDALLM(engine=engine, alignment="honesty", temperature=0, max_tokens=200)
    await read_one(llm, method)
    assert (await ask(llm, method, max_tokens=3))[-1].raw["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("method", METHODS)
async def test_failures_end_with_the_exception(recorder, method):
    error = RequestTimeoutError("too slow")
    llm = SDALLM(engine=ScriptedEngine(error), callback_manager=CallbackManager([recorder]))
    with pytest.raises(RequestTimeoutError):
        await ask(llm, method)
    (ended,) = recorder.ended
    assert ended[EventPayload.EXCEPTION] is error


@pytest.mark.parametrize("method", STREAMING)
async def test_failures_in_a_stream_end_with_the_exception(recorder, events, method):
    error = RequestTimeoutError("too slow")
    llm = SDALLM(engine=ScriptedEngine(("Goethe", error)), callback_manager=CallbackManager([recorder]))
    with pytest.raises(RequestTimeoutError):
        await ask(llm, method)
    (ended,) = recorder.ended
    assert ended[EventPayload.EXCEPTION] is error
    assert "ExceptionEvent" in events
