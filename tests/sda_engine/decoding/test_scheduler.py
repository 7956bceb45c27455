import asyncio
import gc
import threading
import time
import weakref
from contextlib import contextmanager

import pytest

from sda_engine import EngineSettings
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.scheduler import Scheduler
from sda_engine.decoding.tasks import Finished, Token
from sda_engine.errors import CapacityError, EngineClosedError, QueueFullError, RequestTimeoutError, SDAError
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.greedy import POISON, Greedy, greedy_alone, make_prompt

ENDLESS = 100_000


def make_scheduler(model=None, cache_tokens=10**9, **settings):
    return Scheduler(ModelRunner(model or tiny_model()), EngineSettings(**settings), cache_tokens)


@pytest.fixture
def scheduler():
    scheduler = make_scheduler()
    yield scheduler
    scheduler.close()


@contextmanager
def closing_scheduler(*args, **settings):
    scheduler = make_scheduler(*args, **settings)
    try:
        yield scheduler
    finally:
        scheduler.close()


def drain(scheduler, task, deadline=None):
    return list(scheduler.events(task, deadline))


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened for ten seconds"
        time.sleep(0.001)


class Consumers:
    """Threads that drain a task each, and what became of it."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.outcomes = {}
        self.threads = []

    def run(self, *tasks):
        """Start with tasks in this order."""
        for task in tasks:
            thread = threading.Thread(target=self._drain, args=(task,))
            self.threads.append(thread)
            before = len(self.scheduler._worker._waiting)
            thread.start()
            if self.gate_is_closed:
                wait_for(lambda before=before: len(self.scheduler._worker._waiting) == before + 1)

    def _drain(self, task):
        try:
            self.outcomes[task.name] = drain(self.scheduler, task)
        except SDAError as error:
            self.outcomes[task.name] = error

    gate_is_closed = False

    @contextmanager
    def behind_a_gate(self, log, **settings):
        """Within the block a task stops the worker, and others queue; after it all have ended."""
        gate = threading.Event()
        self.run(Greedy("first", log, gate=gate, **{"steps": 1, **settings}))
        wait_for(lambda: ("first", "begin") in log)
        self.gate_is_closed = True
        try:
            yield
        finally:
            gate.set()
            self.join()

    def join(self):
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def names(log, what):
    return [name for name, happened in log if happened == what]


# --- who runs when


def test_a_task_tells_each_token_and_its_end(scheduler):
    task = Greedy(steps=3)
    *tokens, end = drain(scheduler, task)
    assert end == Finished()
    assert all(isinstance(event, Token) for event in tokens)
    assert [event.decoded.token_id for event in tokens] == task.tokens
    assert task.tokens == greedy_alone(tiny_model(), task.prompt.contexts, 3)


def test_tasks_join_in_the_order_they_came_and_share_every_pass(scheduler):
    log, consumers = [], Consumers(scheduler)
    with consumers.behind_a_gate(log):
        consumers.run(*(Greedy(name, log, steps=3) for name in ("second", "third", "fourth")))
    assert names(log, "begin") == ["first", "second", "third", "fourth"]
    assert names(log, "token") == ["first", *["second", "third", "fourth"] * 3]
    assert names(log, "finished") == ["first", "second", "third", "fourth"]


def test_tasks_that_go_on_with_a_request_come_before_new_ones_in_their_own_order():
    with closing_scheduler(max_rows=3) as scheduler:
        log, consumers = [], Consumers(scheduler)
        with consumers.behind_a_gate(log, prompt=make_prompt(tails=(2, 2, 2))):
            consumers.run(
                Greedy("new", log),
                Greedy("another", log),
                Greedy("goes on", log, continues=True),
                Greedy("goes on too", log, continues=True),
            )
    assert names(log, "begin") == ["first", "goes on", "goes on too", "new", "another"]


@pytest.mark.parametrize(("rows", "most_at_once"), [(1, 5), (2, 2), (3, 1)])
def test_no_more_rows_run_than_may(rows, most_at_once):
    with closing_scheduler(max_rows=5) as scheduler:
        log, consumers = [], Consumers(scheduler)
        waiting = [f"task {number}" for number in range(8)]
        with consumers.behind_a_gate(log):
            consumers.run(*(Greedy(name, log, prompt=make_prompt(tails=(2,) * rows)) for name in waiting))
    running, most = set(), 0
    for name, what in log:
        if what == "begin":
            running.add(name)
        elif what == "finished":
            running.remove(name)
        most = max(most, len(running))
    assert most == most_at_once
    assert names(log, "finished") == ["first", *waiting]


# --- what is too much


def test_one_request_more_than_may_be_taken_on_is_refused_at_once_whatever_their_tasks():
    with closing_scheduler(max_requests=2) as scheduler:
        with scheduler.admitted(), scheduler.admitted():
            with pytest.raises(QueueFullError, match=r"2 requests.*max_requests"), scheduler.admitted():
                pass
            for _ in range(3):
                assert drain(scheduler, Greedy())[-1] == Finished()
        with scheduler.admitted(), scheduler.admitted():
            pass


def test_a_request_larger_than_the_memory_is_refused_at_once():
    with closing_scheduler(cache_tokens=29) as scheduler:
        with pytest.raises(CapacityError, match=r"30 tokens.*may hold 29.*cache_tokens"):
            scheduler.submit(Greedy(prompt=make_prompt(shared=5, tails=(5, 5), max_new_tokens=5)))
        assert drain(scheduler, Greedy(prompt=make_prompt(shared=5, tails=(4, 4), max_new_tokens=5)))[-1] == Finished()


def test_a_request_between_two_tasks_lends_its_memory_and_goes_on_as_if_it_had_not():
    with closing_scheduler(cache_tokens=26) as scheduler:  # 7 are held, and 5 with room for 15 more are wanted
        first = Greedy(prompt=make_prompt(max_new_tokens=15), keeps_prompt=True)
        drain(scheduler, first)
        assert drain(scheduler, Greedy(prompt=make_prompt(start=1, max_new_tokens=15)))[-1] == Finished()
        assert not first.prompt.is_ready(first.row_names)
        again = Greedy(prompt=first.prompt, continues=True)
        drain(scheduler, again)
        assert again.tokens == first.tokens


def test_a_request_that_is_forgotten_between_two_tasks_gives_its_memory_back():
    with closing_scheduler(cache_tokens=30) as scheduler:
        first = Greedy(prompt=make_prompt(max_new_tokens=15), keeps_prompt=True)
        drain(scheduler, first)
        del first
        assert drain(scheduler, Greedy(prompt=make_prompt(max_new_tokens=15)))[-1] == Finished()


def test_a_cancelled_task_at_the_head_of_the_queue_does_not_block_those_behind_it():
    with closing_scheduler(cache_tokens=990) as scheduler:
        log, consumers = [], Consumers(scheduler)
        running = Greedy("running", log, steps=900, prompt=make_prompt(max_new_tokens=970))
        consumers.run(running)
        wait_for(lambda: len(log) > 20)
        large = Greedy("large", log, prompt=make_prompt(shared=900, max_new_tokens=15))
        consumers.run(large)
        wait_for(lambda: large in scheduler._worker._waiting)
        consumers.run(Greedy("small", log, prompt=make_prompt(max_new_tokens=5)))
        time.sleep(0.1)
        assert names(log, "begin") == ["running"]
        large.cancel()
        wait_for(lambda: ("small", "finished") in log)
        assert ("running", "finished") not in log
        running.cancel()
        consumers.join()
        assert consumers.outcomes["large"] == [Finished()]
        assert large.prompt.released


# --- who stops


def test_closing_the_events_cancels_the_task_and_frees_its_rows(scheduler):
    log = []
    task = Greedy("first", log, steps=ENDLESS, prompt=make_prompt())
    events = scheduler.events(task)
    next(events)
    events.close()
    wait_for(lambda: task.prompt.released)
    assert ("first", "cancelled") in log
    assert drain(scheduler, Greedy("second", log))[-1] == Finished()


def test_a_deadline_raises_and_cancels(scheduler):
    log = []
    task = Greedy("first", log, steps=ENDLESS, prompt=make_prompt())
    with pytest.raises(RequestTimeoutError, match="timeout"):
        drain(scheduler, task, time.monotonic() + 0.05)
    assert task.cancelled
    wait_for(lambda: ("first", "cancelled") in log)


async def test_a_deadline_in_an_event_loop_raises_and_cancels(scheduler):
    log = []
    task = Greedy("first", log, steps=ENDLESS, prompt=make_prompt())
    with pytest.raises(RequestTimeoutError, match="timeout"):
        async for _ in scheduler.aevents(task, time.monotonic() + 0.05):
            pass
    assert task.cancelled
    while ("first", "cancelled") not in log:
        await asyncio.sleep(0.001)


def test_a_deadline_counts_while_a_task_waits(scheduler):
    log, consumers = [], Consumers(scheduler)
    with consumers.behind_a_gate(log), pytest.raises(RequestTimeoutError):
        drain(scheduler, Greedy("second", log), time.monotonic() + 0.05)
    wait_for(lambda: names(log, "cancelled") == ["second"])
    assert names(log, "begin") == ["first"]


async def test_the_event_loop_goes_on_while_a_task_runs_and_cancelling_stops_the_task(scheduler):
    log = []
    task = Greedy("first", log, steps=ENDLESS, prompt=make_prompt())

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
    while ("first", "cancelled") not in log:
        await asyncio.sleep(0.001)


def test_a_consumer_whose_event_loop_is_gone_does_not_kill_the_worker(scheduler):
    log, gate = [], threading.Event()
    task = Greedy("first", log, steps=ENDLESS, prompt=make_prompt(), gate=gate)
    abandoned = []

    async def submit_and_leave():
        events = scheduler.aevents(task)
        abandoned.append(events)
        starter = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        starter.cancel()

    asyncio.run(submit_and_leave())
    gate.set()
    assert drain(scheduler, Greedy("second", log))[-1] == Finished()
    wait_for(lambda: ("first", "cancelled") in log)


def test_closing_cancels_what_runs_and_refuses_what_waits_and_what_comes():
    scheduler = make_scheduler(max_rows=3)
    log, gate, consumers = [], threading.Event(), Consumers(scheduler)
    running = Greedy("running", log, steps=ENDLESS, prompt=make_prompt(tails=(2, 2, 2)), gate=gate)
    consumers.run(running)
    wait_for(lambda: ("running", "begin") in log)
    consumers.gate_is_closed = True
    waiting = [Greedy(f"waiting {number}", log) for number in range(3)]
    consumers.run(*waiting)
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    wait_for(lambda: scheduler._worker._closed)
    gate.set()
    closer.join(10)
    consumers.join()
    assert consumers.outcomes.pop("running")[-1] == Finished()
    assert ("running", "cancelled") in log
    assert len(consumers.outcomes) == 3
    assert all(isinstance(error, EngineClosedError) for error in consumers.outcomes.values())
    assert all(task.prompt.released for task in (running, *waiting))
    with pytest.raises(EngineClosedError, match="load"):
        drain(scheduler, Greedy("late", log))
    scheduler.close()  # once more does no harm


def test_a_scheduler_that_never_ran_can_be_closed():
    scheduler = make_scheduler()
    scheduler.close()
    with pytest.raises(EngineClosedError):
        scheduler.submit(Greedy())


def test_a_forgotten_scheduler_ends_its_thread():
    scheduler = make_scheduler()
    drain(scheduler, Greedy())
    thread = scheduler._worker._thread
    gone = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


# --- who fails


def test_an_error_in_a_task_reaches_its_consumer_alone(scheduler):
    log, consumers = [], Consumers(scheduler)
    broken, cause = SDAError("broken"), ZeroDivisionError("oops")
    failing = [Greedy("broken", log, error=broken), Greedy("oops", log, error=cause)]
    others = [Greedy(f"other {number}", log, steps=6, prompt=make_prompt(start=number)) for number in range(2)]
    with consumers.behind_a_gate(log):
        consumers.run(others[0], *failing, others[1])
    assert consumers.outcomes["broken"] is broken
    assert str(consumers.outcomes["oops"]) == "Decoding failed: ZeroDivisionError: oops"
    assert consumers.outcomes["oops"].__cause__ is cause
    assert all(task.prompt.released for task in failing)
    for task in others:
        assert consumers.outcomes[task.name][-1] == Finished()
        assert task.tokens == greedy_alone(tiny_model(), task.prompt.contexts, 6)


def test_an_error_while_a_result_is_made_reaches_the_consumer(scheduler):
    class NoResult(Greedy):
        def finish(self, store):
            raise ZeroDivisionError("no result")

    task = NoResult()
    with pytest.raises(SDAError, match="no result"):
        drain(scheduler, task)
    assert task.prompt.released
    assert drain(scheduler, Greedy())[-1] == Finished()


def poison(model):
    """Let every pass of a model fail that has a poisoned token in it."""

    def check(module, args, kwargs):
        if POISON in kwargs["input_ids"]:
            raise MemoryError("poisoned")

    return model.register_forward_pre_hook(check, with_kwargs=True)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_pass_that_fails_for_one_task_fails_that_one_and_the_others_go_on_as_if_alone(architecture, rows):
    model = tiny_model(architecture=architecture)
    prompts = [make_prompt(shared=12, tails=(3, 5)[:rows], start=number) for number in range(4)]
    expected = [greedy_alone(model, prompt.contexts, 8) for prompt in prompts]
    with closing_scheduler(model) as scheduler:
        log, consumers = [], Consumers(scheduler)
        poison(model)
        tasks = [Greedy(f"task {n}", log, steps=8, prompt=prompt) for n, prompt in enumerate(prompts)]
        tasks[1].poisoned = True
        with consumers.behind_a_gate(log):
            consumers.run(*tasks)
    assert str(consumers.outcomes["task 1"]) == "Decoding failed: MemoryError: poisoned"
    assert tasks[1].prompt.released
    assert tasks[1].tokens == expected[1][:1]
    for number in (0, 2, 3):
        assert tasks[number].tokens == expected[number]


def test_a_prompt_that_fails_while_others_decode_fails_alone():
    model = tiny_model()
    with closing_scheduler(model) as scheduler:
        log, consumers = [], Consumers(scheduler)
        poison(model)
        prompt = make_prompt()
        object.__setattr__(prompt.contexts, "shared", (3, POISON, 5))
        other = Greedy("other", log, steps=6)
        with consumers.behind_a_gate(log):
            consumers.run(other, Greedy("failing", log, prompt=prompt))
    assert isinstance(consumers.outcomes["failing"], SDAError)
    assert other.tokens == greedy_alone(tiny_model(), other.prompt.contexts, 6)
