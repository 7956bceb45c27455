"""Warnings of a ChatSDA, one for each cause at the user's own line; and which settings come first in an agent."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import HumanMessage

from sda_engine import Alignment, AlignmentWarning, NoEffectWarning, Steering
from sda_engine.errors import ConfigError
from sda_engine.evaluators import FixedScore
from sda_integrations.langchain import ChatSDA, SDAMiddleware

NEVER = "Never lie."
ROUTES = ["invoke", "ainvoke", "stream", "astream"]


@pytest.fixture
def caught() -> Iterator[list[Any]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def places(caught: list[Any], category: type[Warning]) -> list[str]:
    return [warning.filename for warning in caught if warning.category is category]


def test_a_field_is_warned_of_once_when_the_model_is_made(caught, tiny) -> None:
    chat = ChatSDA(engine=tiny, alignment=NEVER, max_tokens=2)
    assert places(caught, AlignmentWarning) == [__file__]
    chat.invoke("Hi")
    list(chat.stream("Hi"))
    chat.alignment = "Don't guess."
    assert len(caught) == 1
    chat.invoke("Hi")
    chat.invoke("Hi")
    assert places(caught, AlignmentWarning) == [__file__] * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda chat: chat.invoke("Hi", alignment=NEVER),
        lambda chat: list(chat.stream("Hi", alignment=NEVER)),
        lambda chat: chat.batch(["Hi", "Hello"], alignment=NEVER),
        lambda chat: chat.bind(alignment=NEVER).invoke("Hi"),
        lambda chat: chat.invoke("Hi", config={"configurable": {"sda_alignment": NEVER}}),
        lambda chat: chat.generate([[HumanMessage("Hi")]], alignment=NEVER),
        lambda chat: chat.invoke("Hi", alignment=Alignment(instruction=NEVER)),
    ],
)
def test_the_alignment_of_a_call_is_warned_of_once(caught, tiny, call) -> None:
    call(ChatSDA(engine=tiny, max_tokens=2))
    assert places(caught, AlignmentWarning) == [__file__]


async def test_the_alignment_of_an_async_call_is_warned_of_once(caught, tiny) -> None:
    chat = ChatSDA(engine=tiny, max_tokens=2)
    await chat.ainvoke("Hi", alignment=NEVER)
    await chat.abatch(["Hi", "Hello"], alignment=NEVER)
    assert [chunk async for chunk in chat.astream("Hi", alignment=NEVER)]
    assert places(caught, AlignmentWarning) == [__file__] * 3


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("idle", [{"gain": 3.0}, {"evaluator": FixedScore(30)}, {"steering": Steering(gain=3.0)}])
async def test_settings_of_steering_without_an_alignment_are_warned_of(route, idle, tiny, ask, caught) -> None:
    await ask(route, ChatSDA(engine=tiny, max_tokens=2, **idle))
    await ask(route, ChatSDA(engine=tiny, max_tokens=2), **idle)
    assert [warning.category for warning in caught] == [NoEffectWarning] * 2


@pytest.mark.parametrize("route", ROUTES)
async def test_a_plain_answer_of_a_model_that_steers_otherwise_is_not_warned_of(route, tiny, ask) -> None:
    chat = ChatSDA(engine=tiny, alignment="honesty", gain=3.0, evaluator=FixedScore(30), max_tokens=2)
    await ask(route, chat, alignment=None)
    await ask(route, chat, config={"configurable": {"sda_alignment": None}})
    await ask(route, ChatSDA(engine=tiny, gain=3.0, max_tokens=2), alignment=None)
    await ask(route, ChatSDA(engine=tiny, gain=3.0, max_tokens=2), alignment="honesty")


# --- an agent's settings


class Asks(AgentMiddleware[Any, Any, Any]):
    """Sets model settings like an agent of the user's own."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self._settings = settings

    def wrap_model_call(self, request, handler):
        return handler(request.override(model_settings={**request.model_settings, **self._settings}))


def test_the_middlewares_settings_come_before_the_agents_and_leave_its_others(engine) -> None:
    asks = Asks(alignment="empathy", gain=1.0, temperature=0.9, max_tokens=7)
    middleware = [asks, SDAMiddleware("honesty", gain=5.0, temperature=0.0)]
    chat = ChatSDA(engine=engine, alignment="harmlessness", gain=3.0, temperature=1.0, max_tokens=9)
    create_agent(chat, [], middleware=middleware).invoke({"messages": [("human", "Hi")]})
    (call,) = engine.calls
    assert (call.alignment.name, call.steering.gain) == ("honesty", 5.0)
    assert (call.sampling.temperature, call.sampling.max_new_tokens) == (0.0, 7)


def test_what_comes_after_the_middleware_comes_before_it(engine) -> None:
    middleware = [SDAMiddleware("honesty", gain=5.0), Asks(gain=1.0)]
    create_agent(ChatSDA(engine=engine), [], middleware=middleware).invoke({"messages": [("human", "Hi")]})
    assert (engine.calls[0].alignment.name, engine.calls[0].steering.gain) == ("honesty", 1.0)


@pytest.mark.parametrize("idle", [{"gain": 3.0}, {"evaluator": FixedScore(30)}, {"steering": Steering(gain=3.0)}])
def test_a_middleware_for_plain_answers_refuses_to_steer_them(idle) -> None:
    with pytest.raises(ConfigError, match=r"SDAMiddleware\(None, ...\) asks for plain answers"):
        SDAMiddleware(None, **idle)


@pytest.mark.parametrize("idle", [{"gain": 3.0}, {"steering": Steering(gain=3.0, plausibility=0.1)}])
def test_a_function_that_asks_for_a_plain_answer_is_not_warned_of(idle, tiny) -> None:
    agent = create_agent(ChatSDA(engine=tiny, max_tokens=2), [], middleware=[SDAMiddleware(lambda _: None, **idle)])
    agent.invoke({"messages": [("human", "Hi")]})


def test_an_evaluator_on_the_model_and_an_amplification_on_the_call_go_together(engine) -> None:
    chat = ChatSDA(engine=engine, alignment="honesty", evaluator=FixedScore(30))
    chat.invoke("Hi", amplification=0.5)
    assert engine.calls[0].steering == Steering(amplification=0.5)
    with pytest.raises(ConfigError, match=r"amplification=0\.5 is fixed"):
        ChatSDA(engine=engine, evaluator=FixedScore(30), amplification=0.5)
