"""What an application waits for beside the tokens: a free event loop, fair turns, a stop, an error.

    python benchmarks/responsiveness.py [--model smollm2-135m] [--repetitions 5]

Two requests of one SDALLM decode at once on one event loop, which counts its own ticks meanwhile. Then a stream is
closed after a few tokens, and one fails in its forward pass.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from llama_index.core.llms import ChatMessage
from timing import describe_machine, parse_arguments, print_table

from sda_engine import SteeringEngine
from sda_engine.errors import SDAError
from sda_integrations.llama_index import SDALLM

NEW_TOKENS = 32
TICK = 0.005  # seconds
QUESTIONS = ("Why do leaves fall in autumn?", "What is a lighthouse good for?")


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__)
    engine = SteeringEngine.load(arguments.model)
    llm = SDALLM(engine=engine, alignment="honesty", policy="paper", temperature=0, max_tokens=NEW_TOKENS)
    print(describe_machine(engine.model.dtype))
    llm.chat(chat(QUESTIONS[0]))  # warm
    rows = []
    for name, unit, measure_once in (
        ("event loop under two achat calls: ticks", "per second", ticks_per_second),
        ("the longest time between two ticks", "ms", longest_gap),
        ("two astream_chat calls: the longest turn of one", "pieces", longest_turn),
        ("forward passes begun after a stream was closed", "passes", passes_after_close),
        ("from an exception in a forward pass to the reader", "ms", error_delay),
    ):
        values = [asyncio.run(measure_once(llm)) for _ in range(arguments.repetitions)]
        rows.append([name, f"{statistics.median(values):.3g}", f"{min(values):.3g} to {max(values):.3g}", unit])
    print_table(
        f"Steered, {NEW_TOKENS} new tokens, {arguments.repetitions} repetitions", ["", "median", "range", "unit"], rows
    )


def chat(text: str) -> list[ChatMessage]:
    """A chat of one user turn."""
    return [ChatMessage(role="user", content=text)]


async def ticks_per_second(llm: SDALLM) -> float:
    """How often a coroutine that sleeps for TICK seconds gets its turn while two answers are decoded."""
    gaps = await _gaps_during(lambda: asyncio.gather(*(llm.achat(chat(question)) for question in QUESTIONS)))
    return len(gaps) / sum(gaps)


async def longest_gap(llm: SDALLM) -> float:
    """The longest that it waited for its turn, ms."""
    gaps = await _gaps_during(lambda: asyncio.gather(*(llm.achat(chat(question)) for question in QUESTIONS)))
    return 1000 * max(gaps)


async def longest_turn(llm: SDALLM) -> float:
    """The most pieces of one stream in a row while the other one goes on too."""
    order: list[str] = []

    async def read(question: str) -> None:
        async for _ in await llm.astream_chat(chat(question)):
            order.append(question)

    await asyncio.gather(*map(read, QUESTIONS))
    both = order[: min(len(order) - order[::-1].index(question) for question in QUESTIONS)]
    return max(len(list(turn)) for _, turn in itertools.groupby(both))


async def passes_after_close(llm: SDALLM) -> float:
    """Forward passes that begin within a second after a stream was closed in the middle."""
    passes: list[float] = []
    with llm.load().model.register_forward_pre_hook(lambda *_: passes.append(time.perf_counter())):
        async with aclosing(await llm.astream_chat(chat(QUESTIONS[0]))) as stream:
            for _ in range(3):
                await anext(stream)
        closed = len(passes)
        await asyncio.sleep(1)
    return len(passes) - closed


async def error_delay(llm: SDALLM) -> float:
    """From the exception to where the stream is read, ms."""
    raised = 0.0

    def fail(*_: object) -> None:
        nonlocal raised
        raised = time.perf_counter()
        raise RuntimeError("a broken forward pass")

    stream = await llm.astream_chat(chat(QUESTIONS[0]))
    await anext(stream)
    with llm.load().model.register_forward_pre_hook(fail):
        try:
            async for _ in stream:
                pass
        except SDAError:
            return 1000 * (time.perf_counter() - raised)
    raise AssertionError("the stream ended as if nothing had happened")


async def _gaps_during(work: Callable[[], Awaitable[object]]) -> list[float]:
    """Seconds between two ticks of the event loop, as long as the work goes on."""
    gaps: list[float] = []
    running = asyncio.ensure_future(work())
    before = time.perf_counter()
    while not running.done():
        await asyncio.sleep(TICK)
        now = time.perf_counter()
        gaps.append(now - before)
        before = now
    await running
    return gaps


if __name__ == "__main__":
    main()
