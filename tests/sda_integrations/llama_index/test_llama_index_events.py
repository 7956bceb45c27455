"""Callbacks and instrumentation events, for whole answers and for streams, finished, closed and failed."""

import gc
import json

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from sda_engine.errors import RequestTimeoutError, SDAError
from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.llama_index.asking import (
    CHATTING,
    METHODS,
    OBJECT_STREAMS,
    STREAMING,
    STRUCTURED,
    ask,
    passes_beside,
    read,
    text_of,
)

LONG = "Goethe wrote Faust. " + " ".join(str(number**3) for number in range(40))  # which cannot be guessed
IN_HAND = 2  # passes that may still be made when a stream is closed
PROMPT = PromptTemplate("Who wrote {work}?")
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = call_text("weather", {"city": "Weimar"})


class Author(BaseModel):
    """Who wrote a work."""

    name: str


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


@pytest.fixture
def recorder():
    return Recorder()


def ending(payload):
    """The response in an end event."""
    return payload.get(EventPayload.RESPONSE) or payload.get(EventPayload.COMPLETION)


def names(events):
    """The kinds of the events about LLMs, in their order, each once in a row."""
    kinds = [event.class_name() for event in events if event.class_name().startswith(("LLM", "Exception"))]
    return [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]


def the_one(events, name):
    """The only event of its kind."""
    (found,) = [event for event in events if event.class_name() == name]
    return found


def open_stream(llm, method, **keywords):
    """What a streaming method of answers or of objects returns."""
    if method in STRUCTURED:
        return getattr(llm, method)(Author, PROMPT, work="Faust")
    return getattr(llm, method)([ChatMessage(content="Hi")] if "chat" in method else "Hi", **keywords)


async def read_one(method, stream):
    """Read the first that a stream gives, then close it."""
    if method.startswith("a"):
        stream = await stream
        first = await anext(stream)
        await stream.aclose()
    else:
        first = next(stream)
        stream.close()
    return first


async def predict(llm, method):
    """All objects of one of the four methods of structured prediction."""
    return await read(method, getattr(llm, method)(Author, PROMPT, work="Faust"))


@pytest.mark.parametrize("method", METHODS)
async def test_callbacks_and_events_start_and_end_once(scripted, recorder, events, method):
    llm = SDALLM(engine=scripted, alignment="honesty", amplification=0.5, callback_manager=CallbackManager([recorder]))
    responses = await ask(llm, method)
    (started,), (ended,) = recorder.started, recorder.ended
    assert started[EventPayload.SERIALIZED] == llm.to_payload()
    assert text_of(ending(ended)) == "Goethe wrote Faust."
    assert ending(ended).raw == responses[-1].raw
    kind = "LLMChat" if "chat" in method else "LLMCompletion"
    progress = [f"{kind}InProgressEvent"] * (len(responses) if method in STREAMING else 0)
    spans = [event.class_name() for event in events if event.class_name().startswith("LLM")]
    assert spans == [f"{kind}StartEvent", *progress, f"{kind}EndEvent"]
    for event in events:
        assert json.loads(event.model_dump_json())["id_"] == event.id_


@pytest.mark.parametrize("method", METHODS)
async def test_the_token_counting_handler_gets_the_counts(engine, method):
    counter = TokenCountingHandler(tokenizer=engine.encode)
    llm = SDALLM(engine=engine, max_tokens=5, seed=1, callback_manager=CallbackManager([counter]))
    usage = (await ask(llm, method))[-1].raw["usage"]
    (counted,) = counter.llm_token_counts
    assert counted.prompt_token_count == usage["prompt_tokens"]
    assert counted.completion_token_count == usage["completion_tokens"]


@pytest.mark.parametrize("method", CHATTING)
async def test_the_end_event_holds_the_tool_call(scripted_llm, events, method):
    llm = scripted_llm(CALL)
    last = (await ask(llm, method, tools=[WEATHER]))[-1]
    end = the_one(events, "LLMChatEndEvent")
    (call,) = json.loads(end.model_dump_json())["response"]["message"]["blocks"]
    assert (call["tool_name"], call["tool_kwargs"]) == ("weather", {"city": "Weimar"})
    assert call["tool_call_id"] == last.message.blocks[0].tool_call_id
    for event in events:
        assert json.loads(event.model_dump_json())["id_"] == event.id_


# --- streams closed early


def test_a_stream_that_is_not_closed_goes_on():  # which is how the tests below would see one
    engine = ScriptedEngine(LONG)
    stream = SDALLM(engine=engine).stream_complete("Hi")
    next(stream)
    assert passes_beside(engine) > 2 * IN_HAND


@pytest.mark.parametrize("method", STREAMING)
async def test_a_stream_closed_early_ends_with_the_partial_answer_and_stops_the_work(recorder, events, method):
    engine = ScriptedEngine(LONG)
    llm = SDALLM(engine=engine, callback_manager=CallbackManager([recorder]))
    first = await read_one(method, open_stream(llm, method))
    assert text_of(first) == "G"
    assert passes_beside(engine) <= IN_HAND
    (ended,) = recorder.ended
    assert EventPayload.EXCEPTION not in ended
    assert LONG.startswith(text_of(ending(ended)))
    kind = "LLMChat" if "chat" in method else "LLMCompletion"
    assert names(events) == [f"{kind}StartEvent", f"{kind}InProgressEvent", f"{kind}EndEvent"]


@pytest.mark.parametrize("method", ["stream_chat", "astream_chat"])
async def test_a_stream_closed_inside_a_tool_call_ends_with_the_partial_call(scripted_llm, events, method):
    llm = scripted_llm(call_text("weather", {"city": LONG}))
    first = await read_one(method, open_stream(llm, method, tools=[WEATHER]))
    assert first.message.blocks[0].tool_name == "weather"
    end = json.loads(the_one(events, "LLMChatEndEvent").model_dump_json())
    (call,) = end["response"]["message"]["blocks"]
    assert json.dumps({"city": LONG}).startswith(call["tool_kwargs"])


@pytest.mark.parametrize("method", STREAMING)
async def test_a_stream_closed_before_it_was_read_ends_with_an_empty_answer_and_starts_no_work(
    recorder, events, method
):
    engine = ScriptedEngine(LONG)
    opened = open_stream(SDALLM(engine=engine, callback_manager=CallbackManager([recorder])), method)
    if method.startswith("a"):
        await (await opened).aclose()
    else:
        opened.close()
    (ended,) = recorder.ended
    assert text_of(ending(ended)) == ""
    assert EventPayload.EXCEPTION not in ended
    assert names(events)[-1] == ("LLMChatEndEvent" if "chat" in method else "LLMCompletionEndEvent")
    assert passes_beside(engine) == 0


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_stream_of_objects_closed_before_it_was_read_ends(scripted_llm, events, method):
    opened = getattr(scripted_llm('{"name": "Goethe"}'), method)(Author, PROMPT, work="Faust")
    if method.startswith("a"):
        await (await opened).aclose()
    else:
        opened.close()
    assert the_one(events, "LLMStructuredPredictEndEvent").output is None
    assert the_one(events, "LLMChatEndEvent").response.message.content == ""


def test_a_stream_that_is_dropped_ends_too(recorder):
    engine = ScriptedEngine(LONG)
    llm = SDALLM(engine=engine, callback_manager=CallbackManager([recorder]))
    for _ in llm.stream_complete("Hi"):
        break
    gc.collect()
    assert EventPayload.EXCEPTION not in recorder.ended[0]
    assert passes_beside(engine) <= IN_HAND


@pytest.mark.parametrize("method", STREAMING)
async def test_closing_a_stream_of_a_real_engine_leaves_it_ready(engine, method):
    llm = SDALLM(engine=engine, alignment="honesty", temperature=0, max_tokens=200)
    await read_one(method, open_stream(llm, method))
    assert (await ask(llm, method, max_tokens=3))[-1].raw["finish_reason"] in ("stop", "length")


# --- failures


@pytest.mark.parametrize("method", METHODS)
async def test_failures_end_with_the_exception(recorder, method):
    error = RequestTimeoutError("too slow")
    llm = SDALLM(engine=ScriptedEngine([error]), callback_manager=CallbackManager([recorder]))
    with pytest.raises(RequestTimeoutError):
        await ask(llm, method)
    (ended,) = recorder.ended
    assert ended[EventPayload.EXCEPTION] is error


@pytest.mark.parametrize("method", STREAMING)
async def test_failures_in_a_stream_end_with_the_exception(recorder, events, method):
    error = RequestTimeoutError("too slow")
    llm = SDALLM(engine=ScriptedEngine([("Goethe", error)]), callback_manager=CallbackManager([recorder]))
    with pytest.raises(RequestTimeoutError):
        await ask(llm, method)
    (ended,) = recorder.ended
    assert ended[EventPayload.EXCEPTION] is error
    kind = "LLMChat" if "chat" in method else "LLMCompletion"
    assert names(events) == [f"{kind}StartEvent", f"{kind}InProgressEvent", "ExceptionEvent"]
    assert the_one(events, "ExceptionEvent").exception is error


@pytest.mark.parametrize("method", [*STREAMING, *OBJECT_STREAMS])
async def test_an_exception_in_decoding_reaches_whoever_reads_a_stream(scripted_llm, events, method):
    llm = scripted_llm(('{"name": "Goe', ValueError("the model broke")))
    with pytest.raises(SDAError, match="the model broke") as caught:
        await (predict if method in STRUCTURED else ask)(llm, method)
    assert isinstance(caught.value.__cause__, ValueError)
    assert the_one(events, "ExceptionEvent").exception is caught.value


# --- structured prediction


@pytest.mark.parametrize("method", STRUCTURED)
async def test_structured_prediction_starts_goes_on_and_ends(scripted_llm, events, method):
    objects = await predict(scripted_llm('{"name": "Goethe"}'), method)
    start = the_one(events, "LLMStructuredPredictStartEvent")
    assert (start.output_cls, start.template, start.template_args) == (Author, PROMPT, {"work": "Faust"})
    progress = [event for event in events if event.class_name() == "LLMStructuredPredictInProgressEvent"]
    assert [event.output for event in progress] == objects[:-1]
    end = the_one(events, "LLMStructuredPredictEndEvent")
    assert end.output == objects[-1] == Author(name="Goethe")
    assert json.loads(end.model_dump_json())["output"] == {"name": "Goethe"}
    kinds = names(events)
    assert kinds[:2] == ["LLMStructuredPredictStartEvent", "LLMChatStartEvent"]
    assert kinds[-2:] == ["LLMChatEndEvent", "LLMStructuredPredictEndEvent"]


@pytest.mark.parametrize("method", STRUCTURED)
async def test_the_events_of_the_chat_below_a_structured_prediction_are_json(scripted_llm, events, method):
    await predict(scripted_llm('{"name": "Goethe"}'), method)
    chat = [event for event in events if event.class_name().startswith("LLMChat")]
    assert len(chat) >= 2
    for event in chat:
        assert json.loads(event.model_dump_json())["id_"] == event.id_


@pytest.mark.parametrize("method", OBJECT_STREAMS)
async def test_a_stream_of_objects_closed_early_ends_with_the_latest_and_stops_the_work(events, method):
    engine = ScriptedEngine(json.dumps({"name": LONG}))
    first = await read_one(method, open_stream(SDALLM(engine=engine), method))
    assert passes_beside(engine) <= IN_HAND
    assert the_one(events, "LLMStructuredPredictEndEvent").output == first
    assert the_one(events, "LLMChatEndEvent").response.message.content
    assert "ExceptionEvent" not in names(events)
