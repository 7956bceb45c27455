"""How well evaluators tell acceptable responses from others, and how a contrastive score maps to a probability.

    python benchmarks/evaluators.py [--set NAME] [--truthfulqa FILE] [--ifeval FILE] [--evaluator NAME] [--limit N]

Two sets of labelled pairs. TruthfulQA (Lin et al. 2021): the best true and the best false answer to each question,
rated for honesty. IFEval with query and instruction separated (Zhou et al. 2023, Stolfo et al. 2025): answers that the
model samples with and without the instruction in its prompt, rated for the instruction, and labelled by a word search.
Answers to the same prompt are compared with each other too, since there the question plays no part. An answer that
was sampled with the instruction tends to show it in more than the check sees, so those answers are also reported
alone. Intervals are from a bootstrap over prompts.
"""

import argparse
import asyncio
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from instructions import DATA, FORBID, INCLUDE, Row, avoids, includes, instruction_of, read_rows, rows_of, words_of
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from timing import describe_machine, print_table

from sda_engine import PRESETS, Alignment, AlignmentWarning, Sampling, SteeringEngine
from sda_engine.cli.evaluator_specs import DEFAULT_SPECS, make_evaluators
from sda_engine.cli.evaluator_views import agreement_table, describe_failures, evaluator_table
from sda_engine.cli.terminal import output_console
from sda_engine.evaluation import NamedEvaluator, RatedPair
from sda_engine.evaluation.evaluator_check import arate_pairs
from sda_engine.evaluation.evaluator_report import EvaluatorRatings, make_report, pair_scores
from sda_engine.evaluation.measures import Values, brier_score, log_loss
from sda_engine.evaluators import ContrastiveEvaluator

TRUTHFULQA = DATA.with_name("truthfulqa.jsonl")
SETS = ("truthfulqa", "include", "forbid")
CONTRASTIVE = "contrastive"
SHARPNESS = ContrastiveEvaluator().sharpness  # of the default mapping
ANSWERS = 2  # sampled per row and prompt
MAX_NEW_TOKENS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=SETS, help="default: all of them; can be repeated")
    parser.add_argument("--truthfulqa", type=Path, default=TRUTHFULQA)
    parser.add_argument("--ifeval", type=Path, default=DATA)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--evaluator", action="append", help="as for 'sda evaluators check'; can be repeated")
    parser.add_argument("--limit", type=int, help="only so many questions, and rows of each kind")
    arguments = parser.parse_args()
    for data in (arguments.truthfulqa, arguments.ifeval):
        if not data.is_file():
            parser.error(f"{data} is not there: give the data by --truthfulqa and --ifeval")
    warnings.simplefilter("ignore", AlignmentWarning)  # rows that forbid words are rated here, not steered by
    evaluators = make_evaluators(arguments.evaluator or list(DEFAULT_SPECS))
    engine = SteeringEngine.load(arguments.model, dtype=arguments.dtype)
    print(describe_machine(engine.model.dtype))
    sets = arguments.set or SETS
    if "truthfulqa" in sets:
        print_set(engine, "TruthfulQA", truthfulqa_pairs(arguments.truthfulqa, arguments.limit), evaluators)
    for name, kind in (("include", INCLUDE), ("forbid", FORBID)):
        if name in sets:
            rows = rows_of(arguments.ifeval, kind)[: arguments.limit]
            pairs = asyncio.run(ifeval_pairs(engine, rows, kind))
            print_set(engine, f"IFEval, {kind}", pairs, evaluators, alone=len(pairs) // 2)


def truthfulqa_pairs(data: Path, limit: int | None) -> list[RatedPair]:
    """The best true and the best false answer to each question, in shuffled order of the questions."""
    questions = read_rows(data)
    random.Random(0).shuffle(questions)  # noqa: S311 - a sample, no secret; the file is sorted by category
    return [
        RatedPair(
            messages=({"role": "user", "content": question["Question"]},),
            response=question[field],
            alignment=PRESETS["honesty"],
            label=label,
        )
        for question in questions[:limit]
        for field, label in (("Best Answer", True), ("Best Incorrect Answer", False))
    ]


async def ifeval_pairs(engine: SteeringEngine, rows: Sequence[Row], kind: str) -> list[RatedPair]:
    """Sampled answers to each row, labelled by its own check: all with the instruction in the prompt come first."""
    answers = [
        answer_row(engine, row, kind, prompt, seed)
        for prompt in ("prompt", "prompt_without_instruction")
        for row in rows
        for seed in range(ANSWERS)
    ]
    return list(await asyncio.gather(*answers))


async def answer_row(engine: SteeringEngine, row: Row, kind: str, prompt: str, seed: int) -> RatedPair:
    """One sampled answer and its label. It is rated as an answer to the query alone, as a base response is."""
    sampling = Sampling(temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    done = await engine.agenerate([{"role": "user", "content": str(row[prompt])}], sampling=sampling)
    check = includes if kind == INCLUDE else avoids
    return RatedPair(
        messages=({"role": "user", "content": str(row["prompt_without_instruction"])},),
        response=done.text,
        alignment=Alignment(instruction=instruction_of(row)),
        label=check(done.text, words_of(row)),
    )


def print_set(
    engine: SteeringEngine,
    title: str,
    pairs: Sequence[RatedPair],
    evaluators: Sequence[NamedEvaluator],
    *,
    alone: int | None = None,
) -> None:
    """The report on one set, on its first `alone` pairs alone, and what the contrastive score is as a probability."""
    rated = [asyncio.run(arate_pairs(engine, pairs, one, repeats=1)) for one in track(evaluators, f"{title}: rating")]
    print_report(title, pairs, rated)
    if alone is not None:
        first = [replace(one, ratings=one.ratings[:alone]) for one in rated]
        print_report(f"{title}: answers sampled with the instruction", pairs[:alone], first)
    for one in rated:
        if one.name == CONTRASTIVE:
            print_mapping(title, pairs, pair_scores(one))


def print_report(title: str, pairs: Sequence[RatedPair], rated: Sequence[EvaluatorRatings]) -> None:
    """The tables of `sda evaluators check`."""
    print(f"\n{title}: {len(pairs)} pairs, {sum(bool(pair.label) for pair in pairs)} of them acceptable")
    report = make_report(pairs, rated)
    output_console().print(evaluator_table(report))
    if report.agreements:
        output_console().print(agreement_table(report.agreements))
    for failures in filter(None, map(describe_failures, report.evaluators)):
        print(failures)


def print_mapping(title: str, pairs: Sequence[RatedPair], scores: Values) -> None:
    """Fit P(acceptable) to G on one half of the prompts, and hold it against the default mapping on the other."""
    known = np.flatnonzero(~np.isnan(scores))
    labels = np.array([float(bool(pairs[row].label)) for row in known])
    gains = log_odds(scores[known]) / SHARPNESS
    prompts = list(dict.fromkeys(pairs[row].prompt for row in known))
    chosen = set(random.Random(0).sample(prompts, len(prompts) // 2))  # noqa: S311 - a sample, no secret
    first = np.array([pairs[row].prompt in chosen for row in known])
    rows = []
    for name, fitted_on in (("first", first), ("second", ~first)):
        held_out = ~fitted_on
        if len(set(labels[fitted_on])) < 2 or not held_out.any():
            print(f"{title}: the {name} half has labels of one kind only, so nothing is fitted.")
            continue
        slope, intercept = fit_logistic(gains[fitted_on], labels[fitted_on])
        share = labels[fitted_on].mean()
        mappings = {
            f"default: 1 / (1 + exp(-{SHARPNESS:g} G))": sigmoid(SHARPNESS * gains[held_out]),
            f"fitted: 1 / (1 + exp(-({slope:.2f} G {intercept:+.2f})))": sigmoid(slope * gains[held_out] + intercept),
            f"constant: {share:.2f}, the share of acceptable ones": np.full(int(held_out.sum()), share),
        }
        for mapping, probabilities in mappings.items():
            brier, loss = brier_score(probabilities, labels[held_out]), log_loss(probabilities, labels[held_out])
            rows.append([name, mapping, str(len(probabilities)), f"{brier:.3f}", f"{loss:.3f}"])
    columns = ["fitted on half", "P(acceptable) from G, nats per token", "held-out pairs", "Brier score", "log loss"]
    print_table(f"{title}: the contrastive score as a probability", columns, rows, texts=2)


def log_odds(scores: Values) -> Values:
    """The logarithm of the odds that a score / 100 is: `sharpness * G` of a contrastive score."""
    return np.log(scores) - np.log1p(99.0 - scores)


def sigmoid(values: Values) -> Values:
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-values))


def fit_logistic(gains: Values, labels: Values) -> tuple[float, float]:
    """Slope and intercept of P(acceptable) = sigmoid(slope * G + intercept), by maximum likelihood."""
    # Standardised, since the solver is slow to reach a slope far from 1
    centre, width = gains.mean(), gains.std()
    model = LogisticRegression(C=np.inf).fit(((gains - centre) / width)[:, None], labels)
    slope = model.coef_[0, 0] / width
    return float(slope), float(model.intercept_[0] - slope * centre)


if __name__ == "__main__":
    main()
