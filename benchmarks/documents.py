"""Requests on one long document: what they hold, what is read, and what those beside them wait for.

    python benchmarks/documents.py [--model smollm2-135m] [--repetitions 3] [--tokens 5000]

Eight steered questions on one document at once, beside one alone: tokens held (`engine.stats()`) and tokens that went
through forward passes. Then a short question behind the long document: its first token in medians of a pass, and the
longest that an event loop waits meanwhile.
"""

import asyncio
import statistics
import time
from contextlib import aclosing

from texts import quiet, text_cutter
from timing import describe_machine, make_parser, print_table

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.models.loading import _locate

QUESTIONS = [f"What is kept in room {number}?" for number in range(11, 19)]
STEERING = Steering(policy="paper", amplification=1.0)
SAMPLING = Sampling(temperature=0, max_new_tokens=32)
TICK = 0.002  # seconds


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=5000, help="of the document")
    arguments = parser.parse_args()
    quiet()
    folder = _locate(arguments.model)
    rooms = " ".join(
        f"Room {number} keeps {number * 37} maps of the coast and {number * 11} letters." for number in range(999)
    )
    document = text_cutter(folder)(rooms, arguments.tokens)
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        one, eight = (asyncio.run(company(engine, f"{mark} {document}", n)) for mark, n in (("A.", 1), ("B.", 8)))
        rows = [
            [str(n), f"{held:,}", f"{read:,}", f"{seconds:.1f}"] for n, (held, read, seconds) in ((1, one), (8, eight))
        ]
        rows.append(["8 beside 1", f"{eight[0] / one[0]:.2f}", f"{eight[1] / one[1]:.2f}", f"{eight[2] / one[2]:.2f}"])
        print_table(
            f"Steered questions on a document of {arguments.tokens} tokens",
            ["at once", "tokens held", "tokens read", "seconds"],
            rows,
        )
        waits = [asyncio.run(behind(engine, f"{turn} {document}")) for turn in range(arguments.repetitions)]
        rows = [
            [name, f"{statistics.median(values):.3g}", f"{min(values):.3g} to {max(values):.3g}"]
            for name, values in zip(
                ("first token of a short question, in passes", "longest gap of the event loop, ms"),
                zip(*waits, strict=True),
                strict=True,
            )
        ]
        print_table("A short question behind that document", ["", "median", "range"], rows)


async def company(engine: SteeringEngine, document: str, requests: int) -> tuple[int, int, float]:
    """Most tokens held, tokens that went through passes, and seconds, of requests at once."""
    before, start, held = engine.stats().tokens, time.perf_counter(), 0
    asking = [asyncio.ensure_future(ask(engine, document, question)) for question in QUESTIONS[:requests]]
    while not all(task.done() for task in asking):
        held = max(held, engine.stats().held_tokens)
        await asyncio.sleep(0.01)
    await asyncio.gather(*asking)
    return held, engine.stats().tokens - before, time.perf_counter() - start


async def ask(engine: SteeringEngine, document: str, question: str) -> None:
    """One steered answer."""
    messages = [{"role": "user", "content": f"{document}\n\n{question}"}]
    await engine.agenerate(messages, "honesty", steering=STEERING, sampling=SAMPLING)


async def behind(engine: SteeringEngine, document: str) -> tuple[float, float]:
    """First token of a short question while the document is read, in passes; longest gap of the event loop, ms."""
    gaps: list[float] = []
    ticking = asyncio.ensure_future(tick(gaps))
    before = engine.stats().passes
    long = asyncio.ensure_future(ask(engine, document, QUESTIONS[0]))
    while engine.stats().passes == before:  # noqa: ASYNC110 - an engine has no event for it
        await asyncio.sleep(TICK)
    before = engine.stats().passes
    messages = [{"role": "user", "content": "Why do leaves fall?"}]
    async with aclosing(engine.astream(messages, "honesty", steering=STEERING, sampling=SAMPLING)) as stream:
        await anext(stream)
        passes = engine.stats().passes - before
    for task in (long, ticking):
        task.cancel()
    await asyncio.gather(long, ticking, return_exceptions=True)
    return passes, 1000 * max(gaps)


async def tick(gaps: list[float]) -> None:
    """Seconds that each turn of the event loop came late."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(TICK)
        gaps.append(time.perf_counter() - before - TICK)


if __name__ == "__main__":
    main()
