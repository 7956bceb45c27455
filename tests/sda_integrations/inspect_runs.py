"""Marks for tests that have Inspect run something."""

import pytest

RUNS_INSPECT = [
    # Inspect leaves streams of its own open, which are noticed when they are collected: in these tests, and no later
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("left_streams_are_collected"),
]
