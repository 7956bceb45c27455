"""How well steering follows instructions that a word search can check, beside the instruction in the prompt alone.

    python benchmarks/instructions.py --data ../shared/data/ifeval_single_instruction.jsonl [--rows N]

The rows are IFEval prompts (Zhou et al. 2023) with query and instruction separated (Stolfo et al. 2025). Those that
ask to include keywords are steered towards the instruction; those that forbid words are steered away from a text
that asks for them. Greedy, 96 new tokens.
"""

import argparse
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.progress import track
from timing import describe_machine, print_table

from sda_engine import Alignment, AlignmentWarning, Sampling, Steering, SteeringEngine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ifeval_single_instruction.jsonl"
INCLUDE, FORBID = "keywords:existence", "keywords:forbidden_words"
SAMPLING = Sampling(temperature=0, max_new_tokens=96)
PLAIN = Steering(policy="paper")

Row = Mapping[str, object]
Contender = Callable[[SteeringEngine, Row], str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, help="only the first so many of each kind")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        parser.error(f"{arguments.data} is not there: give IFEval rows with separated instructions by --data")
    engine = SteeringEngine.load(arguments.model)
    # steering on a prohibition is one of the contenders: it shows why the engine warns of it
    warnings.simplefilter("ignore", AlignmentWarning)
    print(describe_machine(engine.model.dtype))
    print_following(
        engine,
        "Include the keywords",
        rows_of(arguments.data, INCLUDE)[: arguments.rows],
        INCLUDERS,
        includes,
    )
    print_following(engine, "Do not use the words", rows_of(arguments.data, FORBID)[: arguments.rows], AVOIDERS, avoids)


def rows_of(data: Path, kind: str) -> list[Row]:
    """The rows of one kind of instruction."""
    return [row for row in read_rows(data) if row["instruction_id_list"] == [kind]]


def read_rows(data: Path) -> list[Row]:
    """All rows of a file of JSON lines."""
    return [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]


def words_of(row: Row) -> list[str]:
    """The words that a row asks for, or forbids."""
    (arguments,) = row["kwargs"]
    return list(arguments.get("keywords") or arguments.get("forbidden_words"))


def includes(text: str, words: Sequence[str]) -> bool:
    """IFEval's check: every keyword occurs, in any case."""
    return all(re.search(word, text, flags=re.IGNORECASE) for word in words)


def avoids(text: str, words: Sequence[str]) -> bool:
    """IFEval's check: no forbidden word occurs as a word of its own, in any case."""
    return not any(re.search(rf"\b{word}\b", text, flags=re.IGNORECASE) for word in words)


def base(engine: SteeringEngine, row: Row) -> str:
    """The query alone."""
    return answer(engine, str(row["prompt_without_instruction"]))


def prompted(engine: SteeringEngine, row: Row) -> str:
    """The instruction in the prompt alone."""
    return answer(engine, str(row["prompt"]))


def aligned(alignment_of: Callable[[Row], Alignment], strength: float) -> Contender:
    """Steering by an alignment that each row asks for."""
    steering = Steering(policy="paper", gain=strength, amplification=1.0)

    def contender(engine: SteeringEngine, row: Row) -> str:
        return answer(engine, str(row["prompt_without_instruction"]), alignment_of(row), steering)

    return contender


def towards(row: Row) -> Alignment:
    """The row's own instruction."""
    return Alignment(instruction=instruction_of(row))


def away(row: Row) -> Alignment:
    """No instruction, but a step away from a text that asks for the forbidden words."""
    return Alignment(avoid=f"Include the keyword {', '.join(words_of(row))}.")


def instruction_of(row: Row) -> str:
    """What the instructed prompt says beyond the query."""
    return str(row["prompt"]).removeprefix(str(row["prompt_without_instruction"])).strip()


def answer(engine: SteeringEngine, prompt: str, alignment: Alignment | None = None, steering: Steering = PLAIN) -> str:
    """The text of one greedy answer."""
    messages = [{"role": "user", "content": prompt}]
    return engine.generate(messages, alignment, steering=steering, sampling=SAMPLING).text


INCLUDERS: Mapping[str, Contender] = {
    "base": base,
    "instruction in the prompt": prompted,
    "steered, strength 2": aligned(towards, 2.0),
}
AVOIDERS: Mapping[str, Contender] = {
    "base": base,
    "instruction in the prompt": prompted,
    "steered, strength 2": aligned(towards, 2.0),
    "avoid, strength 1": aligned(away, 1.0),
    "avoid, strength 2": aligned(away, 2.0),
}


def print_following(
    engine: SteeringEngine,
    title: str,
    rows: Sequence[Row],
    contenders: Mapping[str, Contender],
    check: Callable[[str, Sequence[str]], bool],
) -> None:
    """Share of rows that each contender follows, and its distance to the prompt alone in points."""
    shares = {
        name: 100
        * sum(check(contender(engine, row), words_of(row)) for row in track(rows, f"{title}: {name}"))
        / len(rows)
        for name, contender in contenders.items()
    }
    prompt_alone = shares["instruction in the prompt"]
    print_table(
        f"{title}: {len(rows)} rows, greedy, {SAMPLING.max_new_tokens} tokens",
        ["contender", "followed", "points above the prompt"],
        [[name, f"{share:.0f}%", f"{share - prompt_alone:+.0f}"] for name, share in shares.items()],
    )


if __name__ == "__main__":
    main()
