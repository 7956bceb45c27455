"""Score-guided requests at a server without evaluators: deadlines, cancelled tasks and closed engines."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from sda_engine import Steering
from sda_engine.errors import EngineClosedError, RequestTimeoutError
from sda_engine.evaluators import Score
from sda_engine.testing import ScriptedEvaluator
from tests.conftest import user
from tests.sda_engine.remote.scripted import DONE, rated, whole

QUESTION = user("what is in the library?")


class Slow:
    """Rates when it is told to."""

    needs_response = True
    name = "Slow"

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.cancelled = False
        self.thread: threading.Thread | None = None

    def evaluate(self, _) -> Score:
        self.thread = threading.current_thread()
        self.asked.set()
        assert self.go_on.wait(20)
        return Score(value=10.0, evaluator=self.name)

    async def aevaluate(self, _) -> Score:
        self.thread = threading.current_thread()
        self.asked.set()
        try:
            while not self.go_on.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Score(value=10.0, evaluator=self.name)


# --- Deadlines, cancelled tasks, closed engines ---


@pytest.mark.parametrize("way", ["generate", "agenerate"])
async def test_the_deadline_holds_for_all_stages_together(blind, way, monkeypatch) -> None:
    slow, engine = Slow(), blind.engine()
    asked = {"alignment": "honesty", "steering": Steering(evaluator=slow), "timeout": 100}
    if way == "agenerate":
        waiting = asyncio.ensure_future(engine.agenerate(QUESTION, **asked))
    else:
        waiting = asyncio.ensure_future(asyncio.to_thread(engine.generate, QUESTION, **asked))
    assert await asyncio.to_thread(slow.asked.wait, 20)
    later = time.monotonic() + 101
    monkeypatch.setattr("sda_engine.remote.asked.time", SimpleNamespace(monotonic=lambda: later))
    slow.go_on.set()
    with pytest.raises(RequestTimeoutError, match="its rating took all of the request's timeout"):
        await waiting
    assert blind.calls == 1  # the evaluator was not interrupted, and nothing was asked afterwards


def test_the_deadline_holds_for_the_question_whether_there_are_evaluators(blind) -> None:
    blind.card = blind.hang
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        blind.engine().generate(QUESTION, "honesty", steering=rated([20]), timeout=0.05)
    assert time.monotonic() - began < 10
    assert blind.calls == 0


def test_later_stages_are_given_what_is_left_of_the_time(blind) -> None:
    steering = rated([20])
    steering.evaluator.evaluate = lambda _: time.sleep(0.3) or Score(value=20.0, evaluator="slow")
    blind.engine().generate(QUESTION, "honesty", steering=steering, timeout=20)
    first, second = (body["sda"]["timeout"] for body in blind.bodies)
    assert second <= first - 0.25


@pytest.mark.parametrize("stage", ["base", "evaluator", "answer"])
async def test_cancelling_a_task_ends_it_at_every_stage(blind, stage) -> None:
    slow = Slow()
    blind.script = {"base": [blind.endless], "evaluator": [whole()], "answer": [whole(), blind.endless]}[stage]
    if stage == "answer":
        slow.go_on.set()
    task = asyncio.create_task(blind.engine().agenerate(QUESTION, "honesty", steering=Steering(evaluator=slow)))
    for _ in range(2 if stage == "answer" else 1):
        assert await asyncio.to_thread(blind.arrived.acquire, timeout=20)
    if stage == "evaluator":
        assert await asyncio.to_thread(slow.asked.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if stage == "evaluator":
        assert slow.cancelled
    else:
        assert await asyncio.to_thread(blind.left.wait, 20)  # its connection is closed
    assert blind.calls == (2 if stage == "answer" else 1)


async def test_closing_a_stream_closes_the_connection_of_its_answer(blind) -> None:
    blind.script = [whole(), blind.endless]
    stream = blind.engine().astream(QUESTION, "honesty", steering=rated([20]))
    assert (await anext(stream)).text == "It "
    await stream.aclose()
    assert await asyncio.to_thread(blind.left.wait, 20)
    blind.left.clear()
    blind.script = [whole(), blind.endless]
    threaded = blind.engine().stream(QUESTION, "honesty", steering=rated([20]))
    assert (await asyncio.to_thread(next, threaded)).text == "It "
    await asyncio.to_thread(threaded.close)
    assert await asyncio.to_thread(blind.left.wait, 20)


def test_a_stream_asks_for_nothing_before_it_is_read(blind) -> None:
    evaluator = ScriptedEvaluator([20])
    blind.engine().stream(QUESTION, "honesty", steering=Steering(evaluator=evaluator)).close()
    assert blind.calls == 0
    assert evaluator.requests == []


async def test_an_engine_that_is_closed_while_it_is_rated_asks_for_nothing_more(blind) -> None:
    slow, engine = Slow(), blind.engine()
    waiting = asyncio.create_task(engine.agenerate(QUESTION, "honesty", steering=Steering(evaluator=slow)))
    assert await asyncio.to_thread(slow.asked.wait, 20)
    engine.close()
    slow.go_on.set()
    with pytest.raises(EngineClosedError):
        await waiting
    assert blind.calls == 1


async def test_evaluators_are_called_where_the_answer_is_waited_for(blind) -> None:
    slow, engine = Slow(), blind.engine()
    slow.go_on.set()
    steering = Steering(evaluator=slow)
    await engine.agenerate(QUESTION, "honesty", steering=steering)
    assert slow.thread is threading.current_thread()
    thread = await asyncio.to_thread(
        lambda: (engine.generate(QUESTION, "honesty", steering=steering), threading.current_thread())[1]
    )
    assert slow.thread is thread


async def test_others_are_answered_while_an_evaluator_of_a_thread_takes_its_time(blind) -> None:
    slow, engine = Slow(), blind.engine()
    waiting = asyncio.ensure_future(
        asyncio.to_thread(engine.generate, QUESTION, "honesty", steering=Steering(evaluator=slow))
    )
    assert await asyncio.to_thread(slow.asked.wait, 20)
    assert (await engine.agenerate(QUESTION)).text == DONE.text
    slow.go_on.set()
    assert (await waiting).score.value == 10.0
