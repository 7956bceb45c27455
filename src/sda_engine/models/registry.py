"""What is loaded once per process, and shared by all who ask for the same."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sda_engine.forks import make_lock

_Thing = TypeVar("_Thing")


class Registry(Generic[_Thing]):
    """Things by their keys, each made by whoever asks first. Others who ask for the same wait; nobody else does."""

    def __init__(self) -> None:
        self._things: dict[str, _Thing] = {}
        self._being_made: dict[str, threading.Lock] = {}
        self._lock = make_lock()  # guards the two, and is never held for long

    def get(self, key: str, make: Callable[[], _Thing]) -> _Thing:
        """The thing with a key, made now where there is none yet; what `make` raises is raised here."""
        with self._lock:
            making = self._being_made.setdefault(key, make_lock())
        with making:
            with self._lock:
                if key in self._things:
                    return self._things[key]
            thing = make()
            with self._lock:
                self._things[key] = thing
            return thing

    def forget(self, thing: _Thing) -> None:
        """Do not give out a thing any more: the next who asks for it gets a new one."""
        with self._lock:
            self._things = {key: known for key, known in self._things.items() if known is not thing}
