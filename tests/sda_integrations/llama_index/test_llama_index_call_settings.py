"""call_settings: settings for all calls in a block, however deep below it they are made."""

import asyncio
import threading

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from sda_engine import Sampling, Steering
from sda_engine.errors import ConfigError, RequestTimeoutError
from sda_engine.evaluators import FixedScore
from sda_engine.testing import call_text
from sda_integrations.llama_index import SDALLM, call_settings
from tests.sda_integrations.llama_index.asking import METHODS, STRUCTURED, ask, read


class Author(BaseModel):
    """Who wrote a work."""

    name: str


def alignments(engine):
    """The names of the alignments that an engine was asked for."""
    return [request.alignment and request.alignment.name for request in engine.requests]


# --- what comes first


@pytest.mark.parametrize("method", METHODS)
async def test_a_block_comes_before_fields_and_a_call_before_the_block(scripted, method):
    llm = SDALLM(engine=scripted, alignment="honesty", temperature=0.1, top_p=0.9, seed=1, gain=3.0)
    with call_settings(temperature=0.2, top_p=0.8):
        await ask(llm, method, temperature=0.3)
    await ask(llm, method)
    inside, after = scripted.requests
    assert inside.sampling == Sampling(temperature=0.3, top_p=0.8, seed=1)
    assert inside.steering == Steering(gain=3.0)
    assert after.sampling == Sampling(temperature=0.1, top_p=0.9, seed=1)


def test_an_inner_block_comes_before_an_outer_one_and_ends_with_it(llm, scripted):
    with call_settings(temperature=0.1, seed=1):
        with call_settings(temperature=0.2):
            llm.complete("Hi")
        llm.complete("Hi")
    llm.complete("Hi")
    assert [request.sampling.temperature for request in scripted.requests] == [0.2, 0.1, Sampling().temperature]
    assert [request.sampling.seed for request in scripted.requests] == [1, 1, Sampling().seed]


def test_none_in_an_inner_block_keeps_what_the_outer_one_says(llm, scripted):
    with call_settings(temperature=0.1), call_settings(temperature=None):
        llm.complete("Hi")
    assert scripted.requests[0].sampling.temperature == 0.1


def test_a_steering_of_an_inner_block_replaces_all_that_the_outer_one_says_of_it(llm, scripted):
    with call_settings(gain=9.0), call_settings(steering=Steering(gain=2.0)):
        llm.complete("Hi", alignment="honesty")
    assert scripted.requests[0].steering == Steering(gain=2.0)


def test_a_gain_of_an_inner_block_changes_the_steering_of_the_outer_one(llm, scripted):
    with call_settings(steering=Steering(gain=2.0, plausibility=0.1)), call_settings(gain=9.0):
        llm.complete("Hi", alignment="honesty")
    assert scripted.requests[0].steering == Steering(gain=9.0, plausibility=0.1)


def test_an_alignment_of_none_asks_for_a_plain_answer(scripted):
    llm = SDALLM(engine=scripted, alignment="honesty", amplification=0.5)
    with call_settings(alignment=None):
        llm.complete("Hi")
        with call_settings(alignment="empathy"):
            llm.complete("Hi")
        llm.complete("Hi", alignment="empathy")
    llm.complete("Hi")
    assert alignments(scripted) == [None, "empathy", "empathy", "honesty"]


@pytest.mark.parametrize("rated", [{"evaluator": FixedScore(70)}, {"amplification": 0.5}])
def test_every_setting_of_a_call_is_one_of_a_block(llm, scripted, rated):
    sampling = {"temperature": 0, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "stop": "END", "seed": 1, "logprobs": 0}
    steering = {"gain": 1.5, **rated}
    with call_settings(alignment="honesty", max_tokens=40, timeout=600, **sampling, **steering):
        llm.complete("Hi")
    assert alignments(scripted) == ["honesty"]
    assert scripted.requests[0].sampling == Sampling(max_new_tokens=40, **sampling)
    assert scripted.requests[0].steering == Steering(**steering)
    with call_settings(timeout=1e-9), pytest.raises(RequestTimeoutError):
        llm.complete("Hi")


def test_events_and_traces_tell_of_the_settings_of_the_block(llm):
    with call_settings(alignment="honesty", temperature=0):
        payload = llm.to_payload()
        assert llm.metadata.num_output == Sampling().max_new_tokens
        with call_settings(max_tokens=7):
            assert llm.metadata.num_output == 7
    assert payload["alignment"]["name"] == "honesty"
    assert payload["temperature"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperaturee": 1}, "call_settings has no call keyword 'temperaturee'. Did you mean 'temperature'"),
        ({"temperature": -1}, "at least 0"),
        ({"alignment": 5}, "alignment cannot be 5"),
        ({"steering": {"gain": 2}}, "must be a Steering"),
        ({"timeout": 0}, "above 0"),
        ({"tools": []}, "no call keyword 'tools'"),
        ({"model": "other"}, "no call keyword 'model'"),
    ],
)
def test_wrong_settings_are_refused_at_once_and_leave_nothing_behind(llm, scripted, settings, said):
    with pytest.raises(ConfigError, match=said), call_settings(**settings):
        raise AssertionError("the block must not be entered")
    llm.complete("Hi")
    assert scripted.requests[0].sampling == Sampling()


def test_a_block_that_fails_ends(llm, scripted):
    with pytest.raises(ZeroDivisionError), call_settings(temperature=0):
        _ = 1 / 0
    llm.complete("Hi")
    assert scripted.requests[0].sampling == Sampling()


# --- side by side


async def test_tasks_do_not_see_each_others_settings(llm, scripted):
    both_inside = asyncio.Barrier(3)

    async def answer(name):
        with call_settings(alignment=name, amplification=0.5):
            await both_inside.wait()
            await llm.acomplete(name)

    async def plain():
        await both_inside.wait()
        await llm.acomplete("plain")

    await asyncio.gather(answer("honesty"), answer("empathy"), plain())
    asked = {request.messages[0]["content"]: request.alignment for request in scripted.requests}
    assert {text: alignment and alignment.name for text, alignment in asked.items()} == {
        "honesty": "honesty",
        "empathy": "empathy",
        "plain": None,
    }


async def test_a_task_started_in_the_block_has_its_settings_also_after_it(llm, scripted):
    go_on = asyncio.Event()

    async def later():
        await go_on.wait()
        await llm.acomplete("Hi")

    with call_settings(temperature=0.2):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    go_on.set()
    await task
    assert scripted.requests[0].sampling.temperature == 0.2


def test_threads_do_not_see_each_others_settings(llm, scripted):
    both_inside = threading.Barrier(2)

    def answer(name):
        with call_settings(alignment=name, amplification=0.5):
            both_inside.wait(timeout=60)
            llm.complete(name)

    threads = [threading.Thread(target=answer, args=(name,)) for name in ("honesty", "empathy")]
    with call_settings(temperature=0):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(alignments(scripted)) == ["empathy", "honesty"]
    for request in scripted.requests:
        assert request.messages[0]["content"] == request.alignment.name
        assert request.sampling.temperature == Sampling().temperature


# --- what it reaches


@pytest.mark.parametrize("method", STRUCTURED)
async def test_it_reaches_structured_prediction(scripted_llm, method):
    llm = scripted_llm('{"name": "Goethe"}')
    prompt = PromptTemplate("Who?")
    with call_settings(alignment="honesty", amplification=0.5):
        await read(method, getattr(llm, method)(Author, prompt))
        await read(method, getattr(llm, method)(Author, prompt, {"alignment": None}))
    assert alignments(llm.load()) == ["honesty", None]


async def test_it_reaches_query_engines(index, llm, scripted):
    with call_settings(alignment="honesty", amplification=0.5):
        index.as_query_engine(llm=llm).query("When?")
        await index.as_query_engine(llm=llm).aquery("When?")
        "".join(index.as_query_engine(llm=llm, streaming=True).query("When?").response_gen)
        streaming = await index.as_query_engine(llm=llm, streaming=True).aquery("When?")
        assert [text async for text in streaming.async_response_gen()]
    index.as_query_engine(llm=llm).query("When?")
    assert alignments(scripted) == ["honesty"] * 4 + [None]


async def test_it_reaches_chat_engines(llm, scripted, make_memory):
    chat = SimpleChatEngine.from_defaults(llm=llm, memory=make_memory(llm))
    with call_settings(alignment="honesty", amplification=0.5):
        chat.chat("Who?")
        await chat.achat("Who?")
        assert "".join(chat.stream_chat("Who?").response_gen) == "Goethe wrote Faust."
        stream = await chat.astream_chat("Who?")
        assert "".join([text async for text in stream.async_response_gen()]) == "Goethe wrote Faust."
    chat.chat("Who?")
    assert alignments(scripted) == ["honesty"] * 4 + [None]


# llama-index-workflows reads all attributes of an agent, and llama-index-core asks whether a step runs
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
async def test_it_reaches_every_step_of_an_agent(scripted_llm, make_memory):
    def author(work: str) -> str:
        """Tells who wrote a work."""
        return f"Goethe wrote {work}"

    llm = scripted_llm(call_text("author", {"work": "Faust"}), "Goethe did.")
    agent = FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(author)])
    with call_settings(alignment="honesty", amplification=0.5):
        handler = agent.run("Who wrote Faust?", memory=make_memory(llm))
    assert str(await handler) == "Goethe did."
    assert alignments(llm.load()) == ["honesty", "honesty"]
