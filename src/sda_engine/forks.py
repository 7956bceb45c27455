"""What a forked process must not inherit: locks that nobody will open there, and the belief in threads that are gone.

A fork copies the memory and, of all threads, the one that asks for it. Servers that load their model once and then fork
their workers do it (gunicorn --preload, Celery, multiprocessing's "fork"), and expect answers in each of them.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, Self, TypeVar, overload
from weakref import WeakSet, WeakValueDictionary

from sda_engine.threads import start_thread

_PATIENCE = 2.0  # seconds that a fork waits for what is being done under our locks, all of them together

_Result = TypeVar("_Result")
_ResultOf = TypeVar("_ResultOf", covariant=True)


class StartsOver(Protocol):
    """Something that cannot go on in a forked process as it was."""

    def start_over(self) -> None:
        """Be as if newly made; called in the forked process, before anything else runs there."""


class _Inheritance:
    """The locks and things of this process that a forked one gets a copy of."""

    def __init__(self) -> None:
        self.is_forked = False
        self._guard = threading.Lock()
        self._numbers = itertools.count()
        self._locks: WeakValueDictionary[int, threading.Lock] = WeakValueDictionary()
        self._things: WeakSet[StartsOver] = WeakSet()
        self._taken: list[threading.Lock] = []
        self._watches = False

    def add_lock(self, lock: threading.Lock) -> None:
        with self._guard:
            self._watch()
            self._locks[next(self._numbers)] = lock

    def add_thing(self, thing: StartsOver) -> None:
        with self._guard:
            self._watch()
            self._things.add(thing)

    def _watch(self) -> None:
        if not self._watches and hasattr(os, "register_at_fork"):  # there are no forks on Windows
            os.register_at_fork(
                before=self.before_fork,
                after_in_parent=self.after_fork_in_parent,
                after_in_child=self.after_fork_in_child,
            )
        self._watches = True

    def before_fork(self) -> None:
        """Take all locks, so that nothing that they guard is copied half changed.

        What is made later uses what was made before, so the youngest lock is the outermost. One that cannot be had in
        time is left alone: its holder may wait for this very thread.
        """
        self._guard.acquire()
        end = time.monotonic() + _PATIENCE
        for _, lock in sorted(self._locks.items(), reverse=True):
            if lock.acquire(timeout=max(0.0, end - time.monotonic())):
                self._taken.append(lock)

    def after_fork_in_parent(self) -> None:
        for lock in self._taken:
            lock.release()
        self._taken = []
        self._guard.release()

    def after_fork_in_child(self) -> None:
        self.is_forked = True
        for lock in self._locks.values():
            with suppress(RuntimeError):  # it is open
                lock.release()
        self._taken = []
        self._guard.release()
        for thing in list(self._things):
            thing.start_over()


_inheritance = _Inheritance()


def make_lock() -> threading.Lock:
    """A lock that is open in a forked process, whoever held it here.

    A fork waits for its holder, up to two seconds for all locks together. Take a younger lock before an older one.
    """
    lock = threading.Lock()
    _inheritance.add_lock(lock)
    return lock


def start_over_in_forks(thing: StartsOver) -> None:
    """Have something start over in each forked process, for as long as it is there."""
    _inheritance.add_thing(thing)


def is_forked() -> bool:
    """Whether this process was forked from one in which there were locks or things of ours."""
    return _inheritance.is_forked


def compute(work: Callable[[], _Result]) -> _Result:
    """Call a function that computes with torch; in a forked process in a new thread.

    A thread that computed before the fork must not do so after it: OpenMP (libgomp) would wait for helpers of that
    thread which the fork left behind.
    """
    return start_thread(work, "sda-compute").result() if is_forked() else work()


class lazy_property(Generic[_ResultOf]):  # noqa: N801 - it is used as a decorator, like property
    """An attribute that is computed when it is first asked for, and kept.

    That of functools holds one lock for all instances while it computes, in Python 3.11: a fork copies it closed, and
    engines would wait for each other's steps. Here two threads that ask at once both compute.
    """

    def __init__(self, compute: Callable[[Any], _ResultOf]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _ResultOf: ...
    def __get__(self, instance: object | None, owner: type) -> Self | _ResultOf:
        if instance is None:
            return self
        result = self._compute(instance)
        vars(instance)[self._compute.__name__] = result  # which Python finds before this
        return result
