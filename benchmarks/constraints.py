"""Cost of a constraint beside the decoding step that it sits in: mask and its application, and forced tokens.

    python benchmarks/constraints.py [--model smollm2-135m] [--repetitions 5]

Both contenders decode the same steered answer greedily: as free text, and under a grammar that allows any text of
that length, so that each token pays for a mask. The third row is a JSON answer, whose forced tokens need no forward
passes of their own.
"""

import time
from collections.abc import Callable

import torch
from timing import describe_machine, measure, parse_arguments, print_table

from sda_engine import Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.output.constraints import ConstraintCompiler, TokenConstraint, join_grammars
from sda_engine.tokens.tokenizer import SafeTokenizer

PAPER = Steering(policy="paper")
NEW_TOKENS = 48
CHAT = [{"role": "user", "content": "Tell me all about Ada, who is a mathematician, in five sentences."}]
PERSON = Constraint.json_schema(
    {
        "type": "object",
        "properties": {
            "full_name": {"type": "string", "maxLength": 20},
            "profession": {"type": "string", "maxLength": 20},
            "age_in_years": {"type": "integer", "minimum": 0, "maximum": 120},
        },
        "required": ["full_name", "profession", "age_in_years"],
    }
)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__)
    engine = SteeringEngine.load(arguments.model)
    print(describe_machine(engine.model.dtype))
    print_requests(engine, arguments.repetitions)
    print_mask(engine)


def print_requests(engine: SteeringEngine, repetitions: int) -> None:
    """Whole requests, free and constrained."""
    any_text = Constraint.lark(r"start: /(.|\n){0,100000}/")
    outputs = {
        "free text": Output(),
        "any text, masked": Output(constraint=any_text),
        "JSON object": Output(constraint=PERSON, schema_in_prompt=False),
    }
    tokens = {name: ask(engine, output) for name, output in outputs.items()}
    timings = measure({name: run(engine, output) for name, output in outputs.items()}, repetitions)
    per_token = {name: 1000 * timings[name].median / tokens[name] for name in outputs}
    print_table(
        f"Steered, at most {NEW_TOKENS} new tokens, greedy, median of {repetitions}",
        ["answer", "tokens", "ms per token", "beside free text"],
        [
            [name, str(tokens[name]), f"{per_token[name]:.1f}", f"{per_token[name] / per_token['free text']:.3f}"]
            for name in outputs
        ],
    )


def print_mask(engine: SteeringEngine) -> None:
    """The mask alone, inside a JSON text, at this model's vocabulary, on the rows of one request."""
    vocab = engine.model.config.get_text_config(decoder=True).vocab_size
    constraint = text_constraint(engine, vocab)
    logits = torch.randn(2, vocab)
    token = engine.encode(" person")[0]
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        constraint.apply_mask(logits)
        constraint.advance(token)
        constraint.forced()
        seconds.append(time.perf_counter() - start)
    median = 1000 * sorted(seconds)[100]
    print(f"mask, its application to 2 rows and the matcher's step: {median:.3f} ms at a vocabulary of {vocab}")


def text_constraint(engine: SteeringEngine, vocab: int) -> TokenConstraint:
    """A constraint in the middle of a JSON text."""
    compiler = ConstraintCompiler(SafeTokenizer(engine.tokenizer), vocab, frozenset({engine.tokenizer.eos_token_id}))
    constraint = compiler.compile(join_grammars(Constraint.json_schema({"type": "string"}).grammar("main")))
    constraint.advance(engine.encode('"')[0])
    return constraint


def ask(engine: SteeringEngine, output: Output) -> int:
    """One answer; how many tokens it has."""
    sampling = Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS)
    return engine.generate(CHAT, "honesty", steering=PAPER, sampling=sampling, output=output).usage.completion_tokens


def run(engine: SteeringEngine, output: Output) -> Callable[[], object]:
    """A contender."""
    return lambda: ask(engine, output)


if __name__ == "__main__":
    main()
