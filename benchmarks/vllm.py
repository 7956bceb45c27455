"""What steering costs inside vLLM: groups of two sequences against the same sequences in plain vLLM, and our engine.

    python benchmarks/vllm.py [--model smollm2-135m] [--repetitions 5] [--requests 1 8 32] [-- ARGUMENTS OF VLLM]

It needs vLLM's environment (`make vllm`). One server of `sda vllm` answers all: steered requests, and twice as many
plain ones, which vLLM answers itself: each question once as it is and once with the instruction, so that the same
prompts are read and as many sequences run through as many forward passes. What the plain ones do in a second is the
bound for steering. Contenders take turns in one run; while one works the others wait.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import openai
from servers import in_turn, server
from timing import describe_machine, make_parser, print_table

from sda_engine import Sampling, Steering, SteeringEngine
from sda_engine.prompts import Message, place_instruction

NEW_TOKENS = 48
ALIGNMENT = "Tell a very long story with many details."  # so that no answer ends early: fewer rows would be left to run
STEERING = {"alignment": ALIGNMENT, "policy": "paper"}
SAMPLED = {"temperature": 0.8, "top_p": 0.95}
VLLM = ("--dtype", "float32", "--max-model-len", "2048")
_numbers = itertools.count(1000)

Run = Callable[[int], Awaitable[float]]
"""Answers so many requests at once; tokens of answers per second."""


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32], help="at once")
    parser.add_argument("vllm", nargs="*", help="arguments of vLLM's server")
    arguments = parser.parse_args()
    engine = SteeringEngine.load(arguments.model, dtype="float32")
    print(describe_machine(engine.model.dtype))
    with server("vllm", arguments.model, *VLLM, *arguments.vllm) as url:
        asyncio.run(compare(engine, url, arguments.model, arguments.requests, arguments.repetitions))


async def compare(engine: SteeringEngine, url: str, model: str, counts: Sequence[int], repetitions: int) -> None:
    """The table."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    contenders: dict[str, Run] = {
        "the same sequences in plain vLLM": plain(client, model, {"temperature": 0}),
        "the same, sampled": plain(client, model, SAMPLED),
        "steered in vLLM, greedy": steered(client, model, {"temperature": 0}),
        "steered in vLLM, sampled": steered(client, model, SAMPLED),
        "our engine, greedy": by_engine(engine),
    }
    rows = []
    for count in counts:
        speed = await in_turn(contenders, lambda run, count=count: run(count), repetitions)
        bound = statistics.median(speed["the same sequences in plain vLLM"])
        for name, values in speed.items():
            mine = statistics.median(values)
            rows.append(
                [str(count), name, f"{mine:.1f}", f"{min(values):.1f} to {max(values):.1f}", f"{mine / bound:.3f}"]
            )
    print_table(
        f"{NEW_TOKENS} tokens each, medians of {repetitions}",
        ["requests", "", "tokens per second", "least and most", "of the bound"],
        rows,
        texts=2,
    )


def steered(client: openai.AsyncOpenAI, model: str, sampling: dict[str, float]) -> Run:
    """Steered requests, of two sequences each."""
    options = {**sampling, "extra_body": {"sda": STEERING}}

    async def run(count: int) -> float:
        return await _rate(count, lambda: _ask(client, model, options, [question()]), share=1)

    return run


def plain(client: openai.AsyncOpenAI, model: str, sampling: dict[str, float]) -> Run:
    """Twice as many plain requests, whose tokens count half: each question without and with the instruction."""

    async def pair() -> int:
        turns = [question()]
        instructed = place_instruction(turns, ALIGNMENT, "after_query")
        return sum(await asyncio.gather(*(_ask(client, model, sampling, chat) for chat in (turns, instructed))))

    async def run(count: int) -> float:
        return await _rate(count, pair, share=2)

    return run


def by_engine(engine: SteeringEngine) -> Run:
    """Steered requests to the engine in this process."""
    sampling = Sampling(temperature=0, max_new_tokens=NEW_TOKENS)

    async def ask() -> int:
        done = await engine.agenerate([question()], ALIGNMENT, steering=Steering(policy="paper"), sampling=sampling)
        return done.usage.completion_tokens

    async def run(count: int) -> float:
        return await _rate(count, ask, share=1)

    return run


async def _rate(count: int, ask: Callable[[], Awaitable[int]], *, share: int) -> float:
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(ask() for _ in range(count))))
    return tokens / share / (time.perf_counter() - began)


async def _ask(
    client: openai.AsyncOpenAI, model: str, options: Mapping[str, object], messages: Sequence[Message]
) -> int:
    """Tokens of one answer."""
    reply = await client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=NEW_TOKENS,
        **options,  # type: ignore[call-overload]
    )
    return int(reply.usage.completion_tokens)


def question() -> Message:
    """A question that nobody has asked before, so that no stored prompt helps, and whose answer is long enough."""
    asked = f"Visitor number {next(_numbers)} asks for a long story about a lighthouse, a storm and a lost ship."
    return {"role": "user", "content": asked}


if __name__ == "__main__":
    main()
