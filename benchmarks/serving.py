"""What the network costs: `sda serve` in a process of its own against the same engine in this one.

    python benchmarks/serving.py [--model smollm2-135m] [--repetitions 5]

Steered and greedy, the same tokens on both sides, in turn in one run. Time to the first text of one stream, on prompts
that nobody has asked before; then the throughput of 8 clients at once. While one side works the other waits.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import openai
from servers import in_turn, server
from timing import describe_machine, make_parser, print_table

from sda_engine import RemoteEngine, Sampling, Steering, SteeringEngine
from sda_engine.adapting import Engine

CLIENTS, NEW_TOKENS = 8, 32
FEW_TOKENS = 4  # of an answer whose first text is waited for
FIRST_TOKENS_PER_REPETITION = 8
STEERING = Steering(policy="paper")
_numbers = itertools.count(1000)

Asking = Callable[[str, int], AsyncIterator[str]]
"""Streams the texts of an answer to a question, of so many tokens at most."""


def main() -> None:
    """Measure and print."""
    arguments = make_parser(__doc__).parse_args()
    engine = SteeringEngine.load(arguments.model)
    print(describe_machine(engine.model.dtype))
    with server("serve", arguments.model) as url:
        asyncio.run(compare(engine, url, arguments.model, arguments.repetitions))


async def compare(engine: SteeringEngine, url: str, model: str, repetitions: int) -> None:
    """Both tables."""
    remote = RemoteEngine(f"{url}/v1", model=model)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    contenders = {
        "the engine in this process": by_engine(engine),
        "the server, by RemoteEngine": by_engine(remote),
        "the server, by openai's client": by_openai(client, model),
    }
    first = await in_turn(contenders, time_to_first_text, repetitions * FIRST_TOKENS_PER_REPETITION)
    speed = await in_turn(contenders, tokens_per_second, repetitions)
    own_first, own_speed = (statistics.median(next(iter(values.values()))) for values in (first, speed))
    prompts = repetitions * FIRST_TOKENS_PER_REPETITION
    print_table(
        f"One stream, {prompts} prompts; {CLIENTS} clients at once, {NEW_TOKENS} tokens each; medians",
        ["", "first text, ms", "above the engine's", "tokens per second", "of the engine's"],
        [
            [
                name,
                f"{1000 * (mine := statistics.median(first[name])):.1f}",
                f"{1000 * (mine - own_first):+.1f}",
                f"{(rate := statistics.median(speed[name])):.1f}",
                f"{rate / own_speed:.3f}",
            ]
            for name in contenders
        ],
    )


async def time_to_first_text(ask: Asking) -> float:
    """Seconds from the call to the first text of an answer."""
    began, came = time.perf_counter(), 0.0
    async for _ in ask(question(), FEW_TOKENS):
        came = came or time.perf_counter()
    assert came, "the answer is empty"
    return came - began


async def tokens_per_second(ask: Asking) -> float:
    """New tokens per second of clients that ask at the same time."""

    async def whole() -> None:
        async for _ in ask(question(), NEW_TOKENS):
            pass

    began = time.perf_counter()
    await asyncio.gather(*(whole() for _ in range(CLIENTS)))
    return CLIENTS * NEW_TOKENS / (time.perf_counter() - began)


def question() -> str:
    """A question that nobody has asked before, so that no stored prompt helps, and whose answer is long enough."""
    return f"Visitor number {next(_numbers)} asks for a long story about a lighthouse, a storm and a lost ship."


def by_engine(engine: Engine) -> Asking:
    """Asks an engine, here or on a server."""

    async def ask(text: str, tokens: int) -> AsyncIterator[str]:
        sampling = Sampling(temperature=0, max_new_tokens=tokens)
        messages = [{"role": "user", "content": text}]
        async with aclosing(engine.astream(messages, "honesty", steering=STEERING, sampling=sampling)) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    return ask


def by_openai(client: openai.AsyncOpenAI, model: str) -> Asking:
    """Asks the server as any application would."""

    async def ask(text: str, tokens: int) -> AsyncIterator[str]:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=tokens,
            stream=True,
            extra_body={"sda": {"alignment": "honesty", "policy": "paper"}},
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    return ask


if __name__ == "__main__":
    main()
