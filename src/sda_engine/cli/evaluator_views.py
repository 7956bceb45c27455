"""Figures of evaluators as tables."""

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from sda_engine.cli.terminal import figures_table
from sda_engine.evaluation.evaluator_report import Agreement, EvaluatorFigures, EvaluatorReport
from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluators.protocol import EvaluatorUsage

Cell = Callable[[EvaluatorFigures], str]

_NONE = "-"


def evaluator_table(report: EvaluatorReport) -> Table:
    """A row per evaluator; columns for which nobody has data are left out."""
    table = figures_table("Evaluators")
    table.add_column("evaluator", overflow="fold")
    columns = {title: [cell(figures) for figures in report.evaluators] for title, cell in _COLUMNS.items()}
    shown = {title: cells for title, cells in columns.items() if any(cell != _NONE for cell in cells)}
    for title in shown:
        table.add_column(title, justify="right")
    for place, figures in enumerate(report.evaluators):
        table.add_row(Text(figures.name), *(Text(cells[place]) for cells in shown.values()))
    return table


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """A row per two evaluators."""
    table = figures_table("Agreement")
    table.add_column("evaluators", overflow="fold")
    for title in ("pairs", "Kendall tau-b", "mean absolute\ndifference"):
        table.add_column(title, justify="right")
    for agreement in agreements:
        table.add_row(
            Text(f"{agreement.first} · {agreement.second}"),
            str(agreement.pairs),
            _number(agreement.kendall_tau, "+.2f"),
            _number(agreement.mean_absolute_difference, ".1f"),
        )
    return table


def describe_failures(figures: EvaluatorFigures) -> str | None:
    """What went wrong most often, in one line; None where nothing did."""
    if figures.commonest_error is None:
        return None
    error = " ".join(figures.commonest_error.split())
    shortened = error if len(error) <= 300 else error[:299] + "…"
    return f"{figures.name} gave no score in {figures.failures} of {figures.calls} calls, mostly: {shortened}"


def _failed(figures: EvaluatorFigures) -> str:
    return f"{figures.failures}\n({figures.failure_rate:.0%})" if figures.failures else "0"


def _scores(figures: EvaluatorFigures) -> str:
    return _NONE if figures.mean is None else f"{figures.mean:.1f}\n{_number(figures.deviation, '.1f')}"


def _spread(figures: EvaluatorFigures) -> str:
    return _NONE if figures.spread is None else f"{figures.spread.median:.1f}\n{figures.spread.largest:.1f}"


def _latency(figures: EvaluatorFigures) -> str:
    return _NONE if figures.latency is None else f"{figures.latency.median:.3f}\n{figures.latency.p95:.3f}"


def _auc(figures: EvaluatorFigures) -> str:
    return _NONE if figures.labels is None else _estimate(figures.labels.auc)


def _prompt_auc(figures: EvaluatorFigures) -> str:
    return _NONE if figures.labels is None else _estimate(figures.labels.prompt_auc)


def _brier(figures: EvaluatorFigures) -> str:
    return _NONE if figures.labels is None else f"{figures.labels.brier:.3f}"


def _spearman(figures: EvaluatorFigures) -> str:
    return _NONE if figures.people is None else _estimate(figures.people.spearman)


def _usage(figures: EvaluatorFigures) -> str:
    return _NONE if figures.usage is None else describe_usage(figures.usage)


def describe_usage(usage: EvaluatorUsage) -> str:
    """Calls, tokens read and written, and what they cost, one per line."""
    lines = [f"{usage.calls} calls", f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"]
    return "\n".join(lines if usage.cost is None else [*lines, f"cost {usage.cost:.4f}"])


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return _NONE
    interval = "" if estimate.low is None or estimate.high is None else f"\n{estimate.low:.2f}..{estimate.high:.2f}"
    return f"{estimate.value:.2f}{interval}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


# A second line of a title tells what the second line of its cells holds
_COLUMNS: dict[str, Cell] = {
    "rated": lambda figures: str(figures.rated),
    "failures": _failed,
    "mean\ndeviation": _scores,
    "repeats: median\nlargest deviation": _spread,
    "seconds: median\n95th percentile": _latency,
    "AUC\n95% interval": _auc,
    "same prompt": _prompt_auc,
    "Brier\nscore": _brier,
    "Spearman\n95% interval": _spearman,
    "usage": _usage,
}
