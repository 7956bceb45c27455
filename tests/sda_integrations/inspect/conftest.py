"""A scripted engine for each test."""

from collections.abc import Callable, Iterator

import pytest

from sda_engine.testing import ScriptedEngine


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedEngine]]:
    """Makes engines that answer by a script, and closes them in the end."""
    engines = []

    def make(*answers, **settings) -> ScriptedEngine:
        engines.append(ScriptedEngine(answers or "Yes.", **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
