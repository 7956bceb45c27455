import threading
import time

import pytest

from sda_engine import forks
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.errors import SDAError
from sda_engine.forks import _Inheritance, compute, lazy_property
from sda_engine.testing import tiny_engine
from tests.conftest import user


@pytest.fixture
def inheritance(monkeypatch):
    monkeypatch.setattr(_Inheritance, "_watch", lambda _: None)
    monkeypatch.setattr(forks, "_PATIENCE", 0.05)
    return _Inheritance()


class Thing:
    starts = 0

    def start_over(self):
        self.starts += 1


def locks_of(inheritance, count):
    locks = [threading.Lock() for _ in range(count)]
    for lock in locks:
        inheritance.add_lock(lock)
    return locks


def test_nothing_is_done_under_a_lock_while_the_process_forks(inheritance):
    locks = locks_of(inheritance, 3)
    inheritance.before_fork()
    assert all(lock.locked() for lock in locks)
    inheritance.after_fork_in_parent()
    assert not any(lock.locked() for lock in locks)
    assert not inheritance.is_forked


def test_a_lock_that_is_not_given_back_delays_a_fork_for_a_while_and_is_open_in_the_child_alone(inheritance):
    held, free = locks_of(inheritance, 2)
    held.acquire()
    inheritance.before_fork()
    inheritance.after_fork_in_parent()
    assert held.locked()
    assert not free.locked()
    inheritance.before_fork()
    inheritance.after_fork_in_child()
    assert not held.locked()
    assert not free.locked()


def test_the_youngest_lock_is_taken_first(inheritance):
    """Whoever holds it may want an older one next, which must still be free."""
    oldest, youngest = locks_of(inheritance, 2)
    youngest.acquire()
    got = []

    def want_the_oldest():
        time.sleep(0.01)
        got.append(oldest.acquire(timeout=10))
        oldest.release()
        youngest.release()

    thread = threading.Thread(target=want_the_oldest)
    thread.start()
    inheritance.before_fork()
    taken = len(inheritance._taken)
    inheritance.after_fork_in_parent()
    thread.join(10)
    assert got == [True]
    assert taken == 2


def test_things_start_over_in_the_child_alone(inheritance):
    thing = Thing()
    inheritance.add_thing(thing)
    inheritance.before_fork()
    inheritance.after_fork_in_parent()
    assert thing.starts == 0
    inheritance.before_fork()
    inheritance.after_fork_in_child()
    assert thing.starts == 1
    assert inheritance.is_forked


def test_what_was_forgotten_is_not_kept(inheritance):
    inheritance.add_thing(Thing())
    locks_of(inheritance, 1)
    assert not list(inheritance._things)
    assert not list(inheritance._locks.values())


def test_a_forked_process_computes_in_a_thread_of_its_own(monkeypatch):
    assert compute(threading.current_thread) is threading.current_thread()
    monkeypatch.setattr(forks._inheritance, "is_forked", True)
    assert compute(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        compute(lambda: 1 // 0)


def test_a_model_on_an_accelerator_is_refused_in_a_forked_process_with_the_remedy(monkeypatch):
    with tiny_engine() as engine:
        engine._scheduler._worker.start_over()
        assert engine.generate(user("who?")).text
        monkeypatch.setattr(ModelRunner, "outlives_forks", False)
        engine._scheduler._worker.start_over()
        with pytest.raises(SDAError, match=r"accelerator.*after the fork.*spawn.*device='cpu'"):
            engine.generate(user("who?"))


class Slow:
    def __init__(self, work):
        self.work, self.times = work, 0

    @lazy_property
    def result(self):
        self.times += 1
        return self.work()


def test_a_lazy_property_is_computed_once():
    slow = Slow(lambda: "here")
    assert [slow.result, slow.result, slow.times] == ["here", "here", 1]


def test_a_lazy_property_that_fails_is_computed_anew():
    slow = Slow(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            slow.result  # noqa: B018
    assert slow.times == 2


def test_no_lazy_property_waits_for_another():
    """Its thread may be one that a fork leaves behind."""
    began, gate = threading.Event(), threading.Event()

    def wait():
        began.set()
        return gate.wait(60)

    stuck, other = Slow(wait), Slow(lambda: "here")
    threads = [threading.Thread(target=lambda slow=slow: slow.result, daemon=True) for slow in (stuck, other)]
    for thread in threads:
        thread.start()
        began.wait(60)
    threads[1].join(60)
    assert "result" in vars(other)
    gate.set()
    threads[0].join(60)
    assert stuck.result
