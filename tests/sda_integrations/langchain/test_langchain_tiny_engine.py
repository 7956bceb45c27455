"""ChatSDA over a real engine with a tiny random model."""

from collections.abc import Iterator

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from sda_engine import SteeringEngine
from sda_engine.errors import ContextLengthError, EvaluationError
from sda_engine.testing import ScriptedEvaluator, tiny_engine
from sda_integrations.langchain import ChatSDA
from tests.floats import assert_alike

QUESTION = [SystemMessage("Be brief."), HumanMessage("Is the earth flat?")]


@pytest.fixture(scope="module")
def tiny() -> Iterator[SteeringEngine]:
    with tiny_engine(context_window=512) as engine:
        yield engine


@pytest.fixture
def chat(tiny: SteeringEngine) -> ChatSDA:
    return ChatSDA(engine=tiny, alignment="honesty", temperature=0, max_tokens=12)


async def test_all_routes_give_the_same_greedy_answer(chat) -> None:
    whole = chat.invoke(QUESTION)
    chunks = list(chat.stream(QUESTION))
    achunks = [chunk async for chunk in chat.astream(QUESTION)]
    batch = chat.batch([QUESTION, QUESTION, QUESTION])
    others = [await chat.ainvoke(QUESTION), *batch]
    assert {message.content for message in others} == {whole.content}
    for pieces in (chunks, achunks):
        assert "".join(piece.text for piece in pieces) == whole.content
        known = {"input_token_details": {"cache_read": whole.usage_metadata["input_tokens"] - 1}}
        assert pieces[-1].usage_metadata == whole.usage_metadata | known
        sda, expected = pieces[-1].response_metadata["sda"], whole.response_metadata["sda"]
        assert_alike(sda, expected)


def test_steering_changes_the_answer_and_is_reported(chat) -> None:
    steered, plain = chat.invoke(QUESTION, gain=20.0), chat.invoke(QUESTION, alignment=None)
    assert steered.content != plain.content
    assert steered.response_metadata["sda"]["alignment"] == "honesty"
    assert steered.response_metadata["sda"]["strength"] > 1
    assert plain.response_metadata["sda"]["alignment"] is None


def test_an_evaluators_score_and_base_response_reach_the_answer(chat) -> None:
    answer = chat.invoke(QUESTION, evaluator=ScriptedEvaluator([20]))
    figures = answer.response_metadata["sda"]
    assert figures["score"]["value"] == 20
    assert figures["base_response"] is not None
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_token_details"]["base_response"] == figures["base_response_tokens"] > 0


def test_an_evaluators_failure_is_the_engines_error_with_the_base_response(chat) -> None:
    with pytest.raises(EvaluationError) as raised:
        chat.invoke(QUESTION, evaluator=ScriptedEvaluator([EvaluationError("no score")]))
    assert raised.value.base_response is not None


def test_logprobs_cover_every_token_of_the_answer(chat) -> None:
    answer = chat.invoke(QUESTION, logprobs=True, top_logprobs=3)
    places = answer.response_metadata["logprobs"]["content"]
    assert len(places) == answer.usage_metadata["output_tokens"]
    assert all(len(place["top_logprobs"]) == 3 for place in places)


def test_the_token_count_of_messages_is_the_prompt_that_was_read(chat) -> None:
    assert chat.get_num_tokens_from_messages(QUESTION) == chat.invoke(QUESTION).usage_metadata["input_tokens"]


def test_a_history_longer_than_the_context_window_can_be_counted_and_trimmed(chat) -> None:
    history = [HumanMessage("word " * 300) for _ in range(4)]
    assert chat.get_num_tokens_from_messages(history) > 512
    with pytest.raises(ContextLengthError):
        chat.invoke(history)
    trimmed = trim_messages([*history, *QUESTION[1:]], max_tokens=200, token_counter=chat, strategy="last")
    assert trimmed == QUESTION[1:]


def test_a_stream_closed_early_leaves_the_engine_usable(chat) -> None:
    stream = chat.stream(QUESTION, max_tokens=400)
    next(stream)
    stream.close()
    assert chat.invoke(QUESTION).usage_metadata["output_tokens"] <= 12


def test_it_works_in_a_chain(chat) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
    chain = prompt | chat | StrOutputParser()
    assert chain.invoke({"question": "Is the earth flat?"}) == chat.invoke(QUESTION).content
    assert "".join(chain.stream({"question": "Is the earth flat?"})) == chat.invoke(QUESTION).content


async def test_langchains_event_stream_carries_the_whole_answer(chat) -> None:
    events = [event async for event in chat.astream_events(QUESTION, version="v2")]
    output = events[-1]["data"]["output"]
    assert events[-1]["event"] == "on_chat_model_end"
    assert output.content == chat.invoke(QUESTION).content
    assert output.usage_metadata["output_tokens"] <= 12
    assert output.response_metadata["finish_reason"] in ("stop", "length")


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_the_v3_event_stream_carries_text_usage_and_metadata(chat) -> None:
    whole = chat.invoke(QUESTION, top_logprobs=1)
    stream = await chat.astream_events(QUESTION, version="v3", top_logprobs=1)
    message = await stream.output
    assert message.text == whole.text
    assert message.usage_metadata == whole.usage_metadata
    assert_alike(message.response_metadata["sda"], whole.response_metadata["sda"])
    assert_alike(message.response_metadata["logprobs"], whole.response_metadata["logprobs"])
