"""What benchmarks of servers share: a server in a process of its own, and contenders who take turns."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

PAUSE = 0.3  # seconds between two measurements, in which threads that wait for work stop spinning
SECONDS_TO_START = 600.0

_Contender = TypeVar("_Contender")


async def in_turn(
    contenders: Mapping[str, _Contender], measure_once: Callable[[_Contender], Awaitable[float]], repetitions: int
) -> dict[str, list[float]]:
    """What each contender needs, measured in turn after one warm-up; each is the first one as often as the others."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for repetition in range(repetitions + 1):
        first = repetition % len(names)
        for name in (*names[first:], *names[:first]):
            await asyncio.sleep(PAUSE)
            value = await measure_once(contenders[name])
            if repetition:
                values[name].append(value)
    return values


@contextmanager
def server(command: str, model: str, *arguments: str) -> Iterator[str]:
    """A server on a free port, as its address, once it answers.

    Args:
        command: of sda: "serve" or "vllm".
        arguments: behind the model and the port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(Path(sys.executable).parent / "sda"), command, model, "--port", str(port), *arguments]
    environment = {**os.environ, "SDA_API_KEY": ""}
    with subprocess.Popen(  # noqa: S603 - ours
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + SECONDS_TO_START
            while not answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{' '.join(words)} did not come to answer; its status is {process.returncode}.")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(url: str) -> bool:
    """Whether a server is there and well."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
