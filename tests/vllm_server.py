"""A server of vLLM with SDA in it, started as users start it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.servers import COMMAND

ENVIRONMENT = Path(sys.prefix) / "vllm"
"""Where `make vllm` puts vLLM."""

_SECONDS = 240.0  # until it must answer


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        url: http://127.0.0.1:PORT.
        process: of `sda vllm`, which has become vLLM's server.
        log: what it says.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path

    def engine_core(self) -> int:
        """The process id of vLLM's engine."""
        return int(re.findall(r"EngineCore\D* pid=(\d+)", self.log.read_text())[-1])


@contextmanager
def vllm_server(log: Path, *arguments: str) -> Iterator[Served]:
    """`sda vllm smollm2-135m` in float32, without a compiler, in a process of its own.

    Args:
        log: file for what it says.
        arguments: more of them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", COMMAND, "vllm", "smollm2-135m", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", *arguments]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield Served(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended before it listened: {log.read_text()[-3000:]}"
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"it did not listen: {log.read_text()[-3000:]}")
