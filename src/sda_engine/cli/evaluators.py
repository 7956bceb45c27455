"""`sda evaluators check`: how well evaluators rate responses that are given."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.text import Text

from sda_engine.cli.check_options import CheckOptions
from sda_engine.cli.evaluator_specs import make_evaluators
from sda_engine.cli.evaluator_views import agreement_table, describe_failures, evaluator_table
from sda_engine.cli.extras import check_installed
from sda_engine.cli.options import ModelOptions
from sda_engine.cli.requests import combined, load_engine
from sda_engine.cli.terminal import check_picture, counting, error_console, output_console, tell
from sda_engine.errors import ConfigError
from sda_engine.evaluation import EvaluatorReport, RatedPair, check_evaluators, read_pairs
from sda_engine.evaluation.calibration_plot import save_calibration

_DEFAULT_ALIGNMENT = "honesty"


def run(file: Path, model: ModelOptions, options: CheckOptions, *, as_json: bool) -> None:
    """Print the tables, and draw the plot that was asked for; progress goes to standard error."""
    console = error_console()
    check_extra(options.plot)
    alignment = combined(options.alignment or [_DEFAULT_ALIGNMENT])
    pairs = read_pairs(file, alignment, limit=options.limit)
    if options.plot is not None:
        check_plot(options.plot, pairs)
    evaluators = make_evaluators(options.evaluator or [], options.evaluator_url)
    engine = load_engine(model, console)
    with counting(console, "Rating", len(pairs) * len(evaluators) * options.repeats) as one_more:
        report = check_evaluators(engine, pairs, evaluators, repeats=options.repeats, on_rating=one_more)
    if as_json:
        told = {"engine": engine.describe(), "pairs": len(pairs), "repeats": options.repeats, **report.as_dict()}
        typer.echo(json.dumps(told, indent=2))
    else:
        _print(report)
    for figures in report.evaluators:
        if (failures := describe_failures(figures)) is not None:
            tell(console, Text(failures, style="yellow"))
    if options.plot is not None:
        _write_plot(report, options.plot)
        tell(console, Text(f"Plot: {options.plot}", style="dim"))


def check_extra(plot: Path | None) -> None:
    """Check before a long computation that its report can be made.

    Raises:
        SDAError: the extra "report" is not installed, or not wholly.
    """
    check_installed(
        "A report on evaluators needs", ("sklearn", "scipy", *(() if plot is None else ("matplotlib",))), "report"
    )


def check_plot(path: Path, pairs: Sequence[RatedPair]) -> None:
    """Check before a long computation that its plot has something to show and a place to go.

    Raises:
        ConfigError: no pair has a label or a person's rating, or the path is no picture in a folder that exists.
    """
    if all(pair.label is None and pair.score is None for pair in pairs):
        raise ConfigError('--plot has nothing to show: give pairs a "label" or a "score", or leave --plot out.')
    check_picture(path)


def _print(report: EvaluatorReport) -> None:
    console = output_console()
    console.print(evaluator_table(report))
    if report.agreements:
        console.print(agreement_table(report.agreements))


def _write_plot(report: EvaluatorReport, path: Path) -> None:
    try:
        save_calibration(report, path)
    except OSError as error:
        raise ConfigError(f"The plot cannot be written to {path}: {error.strerror}. Choose another file.") from error
