"""Speed of steered decoding beside transformers' own `generate`: tokens per second, and time to the first token.

    python benchmarks/decoding.py [--model smollm2-135m] [--repetitions 5]

Contenders decode greedily, and `generate` is kept from stopping early; figures are medians over one interleaved
run, so compare the ratios.
"""

import torch
from timing import describe_machine, measure, parse_arguments, print_table

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.prompts import make_contexts

NEW_TOKENS = 64
ALIGNMENT = Alignment(instruction="Answer with warmth, and admit what is uncertain or unknown.")
QUESTION = "I lost my keys somewhere between the office and the train station. What should I do now?"
PASSAGE = "The reading room opens at nine. Letters and maps are kept in the archive, and the clock runs backwards. "


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__)
    engine = SteeringEngine.load(arguments.model)
    print(describe_machine(engine.model.dtype))
    print_throughput(engine, arguments.repetitions)
    print_first_token(engine, arguments.repetitions)


def chat(tokens: int, engine: SteeringEngine) -> list[dict[str, str]]:
    """A question after retrieved passages of about so many tokens in all."""
    passages = PASSAGE * max(0, round((tokens - 70) / len(engine.encode(PASSAGE))))
    return [{"role": "user", "content": f"{passages}\n{QUESTION}" if passages else QUESTION}]


def prompt_ids(engine: SteeringEngine, messages: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """Base and instructed prompt as tensors, (1, tokens)."""
    contexts = make_contexts(messages, ALIGNMENT, engine._tokenizer)
    return {
        row: torch.tensor([[*contexts.shared, *tail]], device=engine.model.device)
        for row, tail in contexts.tails.items()
    }


def generate(engine: SteeringEngine, ids: torch.Tensor, tokens: int, **kwargs: object) -> None:
    """transformers' own decoding of exactly so many tokens."""
    engine.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=engine.tokenizer.pad_token_id,
        **kwargs,
    )


def steered(engine: SteeringEngine, messages: list[dict[str, str]], tokens: int) -> int:
    """Tokens that a steered request of ours decoded."""
    done = engine.generate(
        messages,
        ALIGNMENT,
        steering=Steering(amplification=0.5),
        sampling=Sampling(temperature=0, max_new_tokens=tokens),
    )
    return done.usage.completion_tokens


def print_throughput(engine: SteeringEngine, repetitions: int) -> None:
    """Tokens per second, prompt included, of a short chat and a RAG prompt."""
    rows = []
    for case, length in (("short chat", 0), ("RAG, 600 tokens", 600), ("RAG, 1,500 tokens", 1500)):
        messages = chat(length, engine)
        ids = prompt_ids(engine, messages)
        decoded = steered(engine, messages, NEW_TOKENS)
        contenders = {
            "generate": lambda ids=ids, n=decoded: generate(engine, ids["base"], n),
            "generate, guidance_scale": lambda ids=ids, n=decoded: generate(
                engine, ids["instructed"], n, guidance_scale=2.0, negative_prompt_ids=ids["base"]
            ),
            "SDA, base and instructed": lambda messages=messages, n=decoded: steered(engine, messages, n),
        }
        timings = measure(contenders, repetitions)
        ours = timings["SDA, base and instructed"].median
        rows += [
            [
                f"{case} ({ids['base'].shape[1]})" if name == "generate" else "",
                name,
                f"{decoded / timing.median:.1f}",
                "" if timing.median == ours else f"{timing.median / ours:.2f}",
            ]
            for name, timing in timings.items()
        ]
    print_table(
        f"Tokens per second of a whole request, {NEW_TOKENS} new tokens at most, greedy, median of {repetitions}",
        ["case (prompt tokens)", "contender", "tokens/s", "ours is times as fast"],
        rows,
    )


def print_first_token(engine: SteeringEngine, repetitions: int) -> None:
    """Seconds to the first token on a long prompt."""
    messages = chat(1500, engine)
    ids = prompt_ids(engine, messages)
    timings = measure(
        {
            "generate": lambda: generate(engine, ids["base"], 1),
            "SDA, base and instructed": lambda: steered(engine, messages, 1),
        },
        repetitions,
    )
    plain = timings["generate"].median
    print_table(
        f"Time to the first token, prompt of {ids['base'].shape[1]} tokens, median of {repetitions}",
        ["contender", "seconds", "times generate"],
        [[name, f"{timing.median:.3f}", f"{timing.median / plain:.2f}"] for name, timing in timings.items()],
    )


if __name__ == "__main__":
    main()
