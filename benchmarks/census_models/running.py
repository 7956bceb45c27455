"""The census in processes: one for each type, so that none sees what another has left, and none runs for ever."""

import multiprocessing
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

import torch
import transformers

from .examining import Finding, examine
from .types import Group

_FORK = multiprocessing.get_context("fork")  # what has been imported need not be imported for each type
_LOOK = 1.0  # seconds between looks at the clock


@dataclass(frozen=True)
class _Running:
    model_type: str
    group: Group
    process: ForkProcess
    findings: Connection
    start: float

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def finding(self) -> Finding:
        """What it found, when there is something to read."""
        try:
            finding: Finding = self.findings.recv()
        except EOFError:
            self.process.join()
            finding = self._failed(f"its process ended with exit code {self.process.exitcode}")
        self.process.join()
        return finding

    def stop(self) -> Finding:
        """End it."""
        self.process.kill()
        self.process.join()
        return self._failed(f"no end within {self.seconds:.0f} s")

    def _failed(self, reason: str) -> Finding:
        return Finding(self.model_type, self.group, "different", reason, seconds=self.seconds)


def examine_all(types: Iterable[tuple[str, Group]], *, jobs: int, limit: float) -> Iterator[Finding]:
    """Findings in the order in which they come.

    Args:
        types: what to examine.
        jobs: processes at once, of one thread each.
        limit: seconds for each type.
    """
    waiting = deque(types)
    running: dict[Connection, _Running] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            started = _start(*waiting.popleft())
            running[started.findings] = started
        for findings in wait(list(running), timeout=_LOOK):
            yield running.pop(findings).finding()  # type: ignore[arg-type]
        for late in [one for one in running.values() if one.seconds > limit]:
            yield running.pop(late.findings).stop()


def _start(model_type: str, group: Group) -> _Running:
    receiving, sending = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_examine, args=(model_type, group, sending))
    process.start()
    sending.close()  # the process has its own, and its end shall show
    return _Running(model_type, group, process, receiving, time.perf_counter())


def _examine(model_type: str, group: Group, findings: Connection) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")  # advice on kernels and settings of types that nobody trains here
    findings.send(examine(model_type, group))
