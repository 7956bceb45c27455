"""Several weighted alignments by every way that both adapters take an alignment."""

import json
import pickle
import warnings

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from llama_index.core import Document, MockEmbedding, SummaryIndex

from sda_engine import PRESETS, Alignment, AlignmentWarning, Sampling, Steering
from sda_engine.alignment import resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.testing import ScriptedEngine
from sda_integrations.langchain import ChatSDA, SDAMiddleware
from sda_integrations.llama_index import SDALLM, call_settings

pytestmark = pytest.mark.usefixtures("no_event_loop_is_left_behind")

WEIGHTS = {"honesty": 1.0, "empathy": 0.5}
PAIRS = [(PRESETS["honesty"], 2), ("empathy", 1)]
BOTH = Alignment.combine(WEIGHTS)
FEW = {"temperature": 0, "max_tokens": 8}
QUESTION = "what is in the library?"


@pytest.fixture
def scripted():
    with ScriptedEngine("It is there.") as engine:
        yield engine


def alignments(engine):
    return [request.alignment for request in engine.requests]


async def test_langchain_takes_them_by_every_way(scripted):
    chat = ChatSDA(engine=scripted, alignment=WEIGHTS, **FEW)
    config = {"configurable": {"sda_alignment": WEIGHTS}}
    plain = ChatSDA(engine=scripted, **FEW)
    chat.invoke(QUESTION)
    await chat.ainvoke(QUESTION)
    assert list(chat.stream(QUESTION))
    assert [chunk async for chunk in chat.astream(QUESTION)]
    chat.batch([QUESTION])
    plain.invoke(QUESTION, alignment=WEIGHTS)
    plain.bind(alignment=WEIGHTS).invoke(QUESTION)
    plain.invoke(QUESTION, config=config)
    await plain.with_config(config).ainvoke(QUESTION)
    plain.model_copy(update={"alignment": WEIGHTS}).invoke(QUESTION)
    create_agent(plain, middleware=[SDAMiddleware(WEIGHTS)]).invoke({"messages": [("human", QUESTION)]})
    create_agent(plain, middleware=[SDAMiddleware(lambda request: WEIGHTS)]).invoke({"messages": [("human", QUESTION)]})
    assert alignments(scripted) == [BOTH] * 12
    plain.invoke(QUESTION, alignment=PAIRS)
    assert alignments(scripted)[-1] == Alignment.combine(PAIRS)
    chat.invoke(QUESTION, alignment=None)
    assert alignments(scripted)[-1] is None


async def test_llama_index_takes_them_by_every_way(scripted):
    llm = SDALLM(engine=scripted, alignment=WEIGHTS, **FEW)
    plain = SDALLM(engine=scripted, **FEW)
    llm.complete(QUESTION)
    await llm.acomplete(QUESTION)
    assert list(llm.stream_complete(QUESTION))
    assert [part async for part in await llm.astream_complete(QUESTION)]
    plain.complete(QUESTION, alignment=WEIGHTS)
    with call_settings(alignment=WEIGHTS):
        plain.complete(QUESTION)
        index = SummaryIndex.from_documents([Document(text="A text.")], embed_model=MockEmbedding(embed_dim=8))
        index.as_query_engine(llm=plain).query(QUESTION)
    assert alignments(scripted) == [BOTH] * 7
    plain.complete(QUESTION, alignment=PAIRS)
    assert alignments(scripted)[-1] == Alignment.combine(PAIRS)


def test_answers_are_the_engines_own(engine):
    done = engine.generate(
        [{"role": "user", "content": QUESTION}], BOTH, sampling=Sampling(temperature=0, max_new_tokens=8)
    )
    chat = ChatSDA(engine=engine, alignment=WEIGHTS, **FEW)
    message = chat.invoke(QUESTION)
    assert message.text == done.text
    assert message.response_metadata["sda"]["alignment"] == "honesty+empathy"
    response = SDALLM(engine=engine, alignment=PAIRS, **FEW).complete(QUESTION)
    assert response.text == done.text
    assert response.raw["sda"]["alignment"] == "honesty+empathy"


def test_models_are_written_down_as_plain_data_and_come_back(scripted):
    for given in (WEIGHTS, PAIRS, BOTH):
        llm = SDALLM(alignment=given)
        written = json.loads(json.dumps(llm.to_dict()))
        assert SDALLM.from_dict(written).alignment == llm.alignment == resolve_alignment(given)
        assert SDALLM.from_json(llm.to_json()).to_dict() == llm.to_dict()
        assert pickle.loads(pickle.dumps(llm)).alignment == llm.alignment  # noqa: S301
        chat = ChatSDA(alignment=given)
        written = json.loads(chat.model_dump_json(include={"alignment"}))
        assert ChatSDA(**written).alignment == chat.alignment == llm.alignment
        assert pickle.loads(pickle.dumps(chat)).alignment == chat.alignment  # noqa: S301


def test_caches_and_traces_tell_weights_apart(scripted):
    chat = ChatSDA(engine=scripted, cache=InMemoryCache(), **FEW)
    for given in (WEIGHTS, {"honesty": 1.0, "empathy": 0.6}, BOTH, "honesty"):
        chat.invoke(QUESTION, alignment=given)
    assert len(scripted.requests) == 3
    told = chat._get_invocation_params(alignment=WEIGHTS)["alignment"]
    assert [(part["name"], weight) for part, weight in json.loads(json.dumps(told))["parts"]] == list(WEIGHTS.items())


def test_a_mapping_that_is_changed_later_changes_no_model_but_one_that_is_given_it_anew(scripted):
    weights = dict(WEIGHTS)
    chat, llm = ChatSDA(engine=scripted, alignment=weights), SDALLM(engine=scripted, alignment=weights)
    weights["empathy"] = 9.0
    chat.invoke(QUESTION)
    llm.complete(QUESTION)
    assert alignments(scripted) == [BOTH, BOTH]
    chat.alignment = weights  # unchecked, as any assignment to a field
    for empathy in (9.0, 2.0):
        weights["empathy"] = empathy
        chat.invoke(QUESTION)
        assert alignments(scripted)[-1] == Alignment.combine(weights)


@pytest.mark.parametrize("adapter", [ChatSDA, SDALLM])
def test_mistakes_are_told_at_construction_and_warnings_once(adapter, scripted):
    with pytest.raises(ConfigError, match="finite number above 0"):
        adapter(alignment={"honesty": -1.0, "empathy": 1.0})
    with pytest.raises(ConfigError, match="at least one name"):
        adapter(alignment={})
    with pytest.raises(ConfigError, match="has no field 'instruktion'"):
        adapter(alignment={"instruktion": "Be brief."})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = adapter(engine=scripted, alignment={"honestly": 1, "empathy": 1})
        for _ in range(2):
            model.invoke(QUESTION) if adapter is ChatSDA else model.complete(QUESTION)
    assert [warning.category for warning in told] == [AlignmentWarning]


def test_steering_settings_go_with_them(scripted):
    combined = Alignment.combine(WEIGHTS, avoid="Guesses.")
    chat = ChatSDA(engine=scripted, alignment=combined, steering=Steering(avoid_strength=0.5), gain=3.0)
    chat.invoke(QUESTION)
    (request,) = scripted.requests
    assert request.alignment.avoid == "Guesses."
    assert (request.steering.gain, request.steering.avoid_strength) == (3.0, 0.5)
