"""`sda tune`: which settings of steering suit one's own questions and model."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from sda_engine import Sampling
from sda_engine.alignment import resolve_alignment
from sda_engine.cli.evaluator_specs import check_url, make_evaluator
from sda_engine.cli.options import ModelOptions
from sda_engine.cli.requests import combined, load_engine
from sda_engine.cli.terminal import check_picture, counting, error_console, figures_table, output_console, tell
from sda_engine.cli.tune_options import TuneOptions
from sda_engine.errors import ConfigError
from sda_engine.evaluation import (
    TUNED,
    Estimate,
    TunedArm,
    Tuner,
    holds_words,
    matches,
    read_cases,
    recommend,
    scores_at_least,
)
from sda_engine.evaluation.tuning import Check
from sda_engine.evaluation.tuning_plot import save_plane


def run(file: Path, model: ModelOptions, options: TuneOptions, *, as_json: bool) -> None:
    """Print the table and the settings to use; progress goes to standard error."""
    console = error_console()
    if options.plot is not None:
        check_picture(options.plot)
    alignment = resolve_alignment(combined(options.alignment))
    assert alignment is not None, "the option is required"
    check = make_check(options)
    cases = read_cases(file, limit=options.limit)
    engine = load_engine(model, console)
    sampling = Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=0)
    with counting(console, "Answering", len(cases) * len(TUNED)) as one_more:
        tuner = Tuner(engine, cases, alignment, check, sampling, on_answer=one_more)
        arms = asyncio.run(tuner.all())
    best = recommend(arms)
    if as_json:
        told = {"engine": engine.describe(), "questions": len(cases), "arms": [_as_dict(arm) for arm in arms]}
        typer.echo(json.dumps({**told, "recommended": None if best is None else best.name}, indent=2))
    else:
        output_console().print(_table(arms, best, len(cases)))
        output_console().print(Text(advice(best, options.alignment)))
    if options.plot is not None:
        save_plane(arms, options.plot)
        tell(console, Text(f"Plot: {options.plot}", style="dim"))


def make_check(options: TuneOptions) -> Check:
    """How to tell that an answer follows.

    Raises:
        ConfigError: none of the three ways is given, or more than one.
    """
    ways = {"--follows": options.follows, "--word": options.word, "--evaluator": options.evaluator}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        raise ConfigError(f"Give one of {', '.join(ways)}, to tell which answers follow; given: {len(given)}.")
    if options.evaluator is not None:
        return scores_at_least(make_evaluator(options.evaluator, options.evaluator_url), options.score)
    check_url(options.evaluator_url, ())
    return matches(options.follows) if options.follows is not None else holds_words(options.word or [])


def advice(best: TunedArm | None, given: Sequence[str]) -> str:
    """What to paste where, with the alignments as they were given."""
    if best is None or best.steering is None:
        return (
            "No setting does better than the instruction in the prompt: put it there (gain=0), or word it differently. "
            "A larger model may follow better."
        )
    chosen = best.steering.given()
    settings = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    flat = [f"--alignment {text!r}" for text in given]
    flat += [f"--{name} {value}" for name, value in chosen.items() if name in ("policy", "gain", "amplification")]
    more = " (its budgets have no option)" if {"budget", "reserve"} & chosen.keys() else ""
    alignment = combined(given)
    return (
        f"Best: {best.name}. To use it:\n"
        f"  steering = Steering({settings})\n"
        f"  ChatSDA(alignment={alignment!r}, steering=steering)\n"
        f"  SDALLM(alignment={alignment!r}, steering=steering)\n"
        f"  sda generate {' '.join(flat)}{more}"
    )


def _table(arms: Sequence[TunedArm], best: TunedArm | None, count: int) -> Table:
    table = figures_table(f"{count} questions; 95% intervals")
    table.add_column("setting", overflow="fold")
    for column in ("kept", "follows", "both", "degenerate", "seconds"):
        table.add_column(column, justify="right")
    for arm in arms:
        shares = (_shown(value) for value in (arm.kept, arm.follows, arm.both, arm.degenerate))
        table.add_row(Text(arm.name), *shares, f"{arm.seconds:.2f}", style="bold" if arm is best else None)
    return table


def _shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.0%}"
    return f"{estimate.value:.0%}\n{100 * estimate.low:.0f}..{100 * estimate.high:.0f}"


def _as_dict(arm: TunedArm) -> dict[str, object]:
    return {**asdict(arm), "steering": None if arm.steering is None else arm.steering.describe()}
