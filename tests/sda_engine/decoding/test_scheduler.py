import asyncio
import gc
import threading
import time
import weakref

import pytest

from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.scheduler import _MOST_AT_ONCE, Scheduler
from sda_engine.decoding.tasks import Finished, Task
from sda_engine.errors import EngineClosedError, RequestTimeoutError, SDAError
from sda_engine.testing import tiny_model


class Steps(Task):
    """A task of a given number of steps that logs what happens to it."""

    def __init__(self, name, log, steps=3, gate=None, error=None):
        super().__init__()
        self.name, self.log, self.left, self.gate, self.error = name, log, steps, gate, error

    def begin(self, runner):
        self.log.append((self.name, "begin"))

    def step(self, runner):
        if self.gate is not None:
            self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.log.append((self.name, "step"))
        self.left -= 1
        return self.left == 0

    def finish(self):
        self.log.append((self.name, "cancelled" if self.cancelled else "finished"))


@pytest.fixture
def scheduler():
    scheduler = Scheduler(ModelRunner(tiny_model()))
    yield scheduler
    scheduler.close()


def drain(scheduler, task, deadline=None):
    return list(scheduler.events(task, deadline))


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened for ten seconds"
        time.sleep(0.001)


def start(scheduler, log, names, steps):
    """Threads that drain a task each, queued in this order behind one that waits at its gate."""
    gate = threading.Event()
    blocker = threading.Thread(target=drain, args=(scheduler, Steps("first", log, 1, gate)))
    blocker.start()
    wait_for(lambda: ("first", "begin") in log)
    threads = [blocker]
    for waiting, name in enumerate(names, start=1):
        threads.append(threading.Thread(target=drain, args=(scheduler, Steps(name, log, steps))))
        threads[-1].start()
        wait_for(lambda waiting=waiting: scheduler._worker._inbox.qsize() == waiting)
    gate.set()
    for thread in threads:
        thread.join(10)


def test_tasks_begin_in_the_order_they_came_and_take_turns(scheduler):
    log = []
    start(scheduler, log, ("second", "third", "fourth"), steps=2)
    assert [name for name, what in log if what == "begin"] == ["first", "second", "third", "fourth"]
    turns = [name for name, what in log if what == "step" and name != "first"]
    assert turns == ["second", "third", "fourth"] * 2


def test_what_comes_while_as_many_run_as_may_waits_until_one_has_ended(scheduler):
    log = []
    names = [f"task {number}" for number in range(_MOST_AT_ONCE + 2)]
    start(scheduler, log, names, steps=3)
    running = set()
    for name, what in log:
        if what == "begin":
            running.add(name)
        elif what == "finished":
            running.remove(name)
        assert len(running) <= _MOST_AT_ONCE
    assert [name for name, what in log if what == "finished"] == ["first", *names]


def test_closing_the_events_cancels_the_task_and_the_next_one_runs(scheduler):
    log, gate = [], threading.Event()
    task = Steps("first", log, steps=10**9)
    events = scheduler.events(task)
    starter = threading.Thread(target=lambda: next(events, None))
    starter.start()
    wait_for(lambda: len(log) > 3)
    task.cancel()
    starter.join(10)
    assert log[-1] == ("first", "cancelled")
    gate.set()
    drain(scheduler, Steps("second", log, 1, gate))
    assert log[-1] == ("second", "finished")


def test_an_error_in_a_task_reaches_its_consumer_alone(scheduler):
    log = []
    error = SDAError("broken")
    with pytest.raises(SDAError, match="broken"):
        drain(scheduler, Steps("first", log, error=error))
    with pytest.raises(SDAError, match="Decoding failed: ZeroDivisionError: oops") as raised:
        drain(scheduler, Steps("second", log, error=ZeroDivisionError("oops")))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert drain(scheduler, Steps("third", log)) == [Finished()]


def test_a_deadline_raises_and_cancels(scheduler):
    log, gate = [], threading.Event()
    task = Steps("first", log, 5, gate)
    with pytest.raises(RequestTimeoutError, match="timeout"):
        drain(scheduler, task, time.monotonic() + 0.05)
    assert task.cancelled
    gate.set()
    wait_for(lambda: ("first", "cancelled") in log)


async def test_a_deadline_in_an_event_loop_raises_and_cancels(scheduler):
    gate = threading.Event()
    task = Steps("first", [], 5, gate)
    with pytest.raises(RequestTimeoutError):
        async for _ in scheduler.aevents(task, time.monotonic() + 0.05):
            pass
    assert task.cancelled
    gate.set()


async def test_the_event_loop_goes_on_while_a_task_runs_and_cancelling_stops_the_task(scheduler):
    log, gate = [], threading.Event()
    task = Steps("first", log, 5, gate)

    async def consume():
        async for _ in scheduler.aevents(task):
            pass

    consumer = asyncio.create_task(consume())
    ticks = 0
    while ("first", "begin") not in log:
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 0
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert task.cancelled
    gate.set()


def test_a_consumer_whose_event_loop_is_gone_does_not_kill_the_worker(scheduler):
    log, gate = [], threading.Event()
    task = Steps("first", log, 2, gate)

    async def submit_and_leave():
        events = scheduler.aevents(task)
        starter = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        starter.cancel()

    asyncio.run(submit_and_leave())
    gate.set()
    assert drain(scheduler, Steps("second", log, 1)) == [Finished()]


def test_closing_cancels_what_runs_and_refuses_what_waits_and_what_comes(scheduler):
    log, gate = [], threading.Event()
    outcomes = {}

    def run(name, **kwargs):
        try:
            outcomes[name] = drain(scheduler, Steps(name, log, **kwargs))
        except EngineClosedError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=run, args=("running",), kwargs={"steps": 10**9, "gate": gate})]
    threads[0].start()
    wait_for(lambda: ("running", "begin") in log)
    for waiting in range(1, _MOST_AT_ONCE + 2):
        threads.append(threading.Thread(target=run, args=(f"waiting {waiting}",)))
        threads[-1].start()
        wait_for(lambda waiting=waiting: scheduler._worker._inbox.qsize() == waiting)
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    wait_for(lambda: scheduler._worker._closed)
    gate.set()
    for thread in (*threads, closer):
        thread.join(10)
    assert outcomes["running"] == [Finished()]
    assert ("running", "cancelled") in log
    assert all(isinstance(outcomes[name], EngineClosedError) for name in outcomes if name != "running")
    assert len(outcomes) == _MOST_AT_ONCE + 2
    with pytest.raises(EngineClosedError, match="load"):
        drain(scheduler, Steps("late", log))


def test_a_forgotten_scheduler_ends_its_thread():
    scheduler = Scheduler(ModelRunner(tiny_model()))
    drain(scheduler, Steps("only", []))
    thread = scheduler._worker._thread
    gone = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()
