"""How often the guard sees a failure sign, by strength of steering, and whether relaxing the strength helps.

    python benchmarks/guards.py [--prompts N] [--new-tokens N]

Half of the prompts are situations of EmpatheticDialogues (Rashkin et al. 2019), steered to empathy, half are questions
of TruthfulQA (Lin et al. 2021), steered to honesty. None of them was used to set the guard's thresholds. Each is
answered greedily and sampled at every strength, once with guard="report" and once with guard="relax".
"""

import argparse
import asyncio

from instructions import DATA, read_rows
from rich.progress import Progress
from texts import quiet
from timing import describe_machine, print_table

from sda_engine import Completion, Sampling, Steering, SteeringEngine
from sda_engine.config import GuardAction

STRENGTHS = (0.0, 1.0, 2.0, 4.0)
TEMPERATURES = (0.0, 0.6)
FIRST, STEP = 3, 6  # the thresholds were set on every sixth row, from the first one on


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=96)
    arguments = parser.parse_args()
    quiet()
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        asyncio.run(print_signs(engine, read_prompts(arguments.prompts), arguments.new_tokens))


def read_prompts(count: int) -> list[tuple[str, str]]:
    """(preset, prompt): situations for one half, questions for the other."""
    half = count // 2
    situations = [row["prompt"].split(": ", 1)[-1] for row in read_rows(DATA.with_name("empathetic_dialogues.jsonl"))]
    questions = [row["Question"] for row in read_rows(DATA.with_name("truthfulqa.jsonl"))]
    return [("empathy", text) for text in situations[FIRST::STEP][:half]] + [
        ("honesty", text) for text in questions[FIRST::STEP][: count - half]
    ]


async def print_signs(engine: SteeringEngine, prompts: list[tuple[str, str]], new_tokens: int) -> None:
    """A row per strength and temperature."""
    rows = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("answers", total=len(STRENGTHS) * len(TEMPERATURES) * 2)
        for strength in STRENGTHS:
            for temperature in TEMPERATURES:
                cells = []
                for guard in ("report", "relax"):
                    answers = await answer_all(engine, prompts, strength, temperature, new_tokens, guard)
                    cells += [str(warned(answers, "repetition")), str(warned(answers, "collapse")), again(answers)]
                    progress.advance(bar)
                rows.append([f"{strength:g}", f"{temperature:g}", *cells])
    print_table(
        f"Answers of {len(prompts)} with a failure sign, {new_tokens} tokens each; 'again': those with a further one",
        ["strength", "temperature", "loops", "collapse", "again", "loops (relax)", "collapse", "again"],
        rows,
    )


async def answer_all(
    engine: SteeringEngine,
    prompts: list[tuple[str, str]],
    strength: float,
    temperature: float,
    new_tokens: int,
    guard: GuardAction,
) -> list[Completion]:
    """One answer to each prompt, all at once."""
    steering = Steering(policy="paper", gain=strength, amplification=1.0, guard=guard)
    return await asyncio.gather(
        *(
            engine.agenerate(
                [{"role": "user", "content": text}],
                preset,
                steering=steering,
                sampling=Sampling(temperature=temperature, seed=seed, max_new_tokens=new_tokens),
            )
            for seed, (preset, text) in enumerate(prompts)
        )
    )


def warned(answers: list[Completion], kind: str) -> int:
    """How many answers have a warning of a kind."""
    return sum(any(warning.kind == kind for warning in answer.trace.warnings) for answer in answers)


def again(answers: list[Completion]) -> str:
    """How many answers have more than one warning."""
    return str(sum(len(answer.trace.warnings) > 1 for answer in answers))


if __name__ == "__main__":
    main()
