"""The policy as a flat setting of both adapters: for a model, for a call, for whole answers and streams."""

import pytest

from sda_engine import Steering
from sda_engine.choosing import FREE_REVISIONS
from sda_engine.errors import ConfigError
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM

pytestmark = [pytest.mark.default_policy, pytest.mark.usefixtures("no_event_loop_is_left_behind")]

FEW = {"alignment": "be kind", "temperature": 0, "max_tokens": 12}
QUESTION = "what is in the library?"


@pytest.fixture
def chat(engine):
    return ChatSDA(engine=engine, **FEW)


@pytest.fixture
def llm(engine):
    return SDALLM(engine=engine, **FEW)


def sda_of(message):
    return message.response_metadata["sda"]


async def test_whole_answers_of_langchain_are_revised_and_streams_are_not(chat):
    for message in (chat.invoke(QUESTION), await chat.ainvoke(QUESTION), *chat.batch([QUESTION])):
        assert len(sda_of(message)["attempts"]) == len(FREE_REVISIONS)
    whole = None
    for chunk in chat.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert "attempts" not in sda_of(whole)


async def test_whole_answers_of_llama_index_are_revised_and_streams_are_not(llm):
    assert len(llm.complete(QUESTION).raw["sda"]["attempts"]) == len(FREE_REVISIONS)
    assert len((await llm.acomplete(QUESTION)).raw["sda"]["attempts"]) == len(FREE_REVISIONS)
    *_, last = llm.stream_complete(QUESTION)
    assert "attempts" not in last.raw["sda"]


def test_a_stream_that_asks_for_revisions_comes_in_one_piece(chat, llm):
    texts = [chunk.text for chunk in chat.stream(QUESTION, policy="revise") if chunk.text]
    assert texts == [chat.invoke(QUESTION).text]
    deltas = [part.delta for part in llm.stream_complete(QUESTION, policy="revise") if part.delta]
    assert deltas == [llm.complete(QUESTION).text]


@pytest.mark.parametrize("policy", ["paper", "budget"])
def test_a_policy_that_is_named_holds_for_whole_answers_and_streams(engine, policy):
    chat = ChatSDA(engine=engine, policy=policy, **FEW)
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == chat.invoke(QUESTION).text
    llm = SDALLM(engine=engine, **FEW)
    *_, last = llm.stream_complete(QUESTION, policy=policy)
    assert last.text == llm.complete(QUESTION, policy=policy).text == chat.invoke(QUESTION).text


def test_dropped_revisions_are_tokens_that_were_generated(chat):
    message = chat.invoke(QUESTION)
    usage = message.usage_metadata
    assert usage["output_token_details"]["dropped"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_flat_policy_changes_that_field_of_steering_and_drops_what_it_does_not_look_at(engine):
    chat = ChatSDA(engine=engine, steering=Steering(policy="revise", keep="nothing"), **FEW)
    assert "attempts" in sda_of(chat.invoke(QUESTION))
    assert "attempts" not in sda_of(chat.invoke(QUESTION, policy="budget"))


def test_an_unknown_policy_is_refused_with_those_there_are(engine):
    with pytest.raises(ConfigError, match="'auto', 'paper', 'budget' or 'revise'"):
        ChatSDA(engine=engine, policy="best")
    with pytest.raises(ConfigError, match="'auto', 'paper', 'budget' or 'revise'"):
        SDALLM(engine=engine, policy="best")
