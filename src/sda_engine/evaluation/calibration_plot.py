"""Draw what an evaluator's scores mean: beside what people said of responses that were rated alike."""

from pathlib import Path
from typing import TYPE_CHECKING

from sda_engine.evaluation.evaluator_report import EvaluatorFigures, EvaluatorReport
from sda_engine.evaluation.extras import report_extra
from sda_engine.evaluation.measures import Bin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and orange of Okabe and Ito's palette, which colour-blind readers can tell apart; the markers differ too
_LABEL_COLOUR, _PEOPLE_COLOUR, _TEXT_COLOUR = "#0072b2", "#d55e00", "#333333"
_PANEL, _PANELS_A_ROW = 3.6, 3  # inches; panels beside each other


def plot_calibration(report: EvaluatorReport) -> "Figure":
    """A panel per evaluator: what people said of the responses in each tenth of its scale.

    That is the share of acceptable ones where there are labels, and the mean rating / 100 where people rated. The
    number beside a point is the count of pairs. On the dashed line, a score is what people say.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with report_extra():
        from matplotlib.figure import Figure
    columns = min(len(report.evaluators), _PANELS_A_ROW)
    rows = -(-len(report.evaluators) // columns)
    figure = Figure(figsize=(_PANEL * columns + 0.4, _PANEL * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place < len(report.evaluators):
            _draw(axes, report.evaluators[place])
        else:
            axes.set_visible(False)
    figure.supxlabel("score / 100", fontsize=11, color=_TEXT_COLOUR)
    figure.supylabel(_outcome(report), fontsize=11, color=_TEXT_COLOUR)
    return figure


def save_calibration(report: EvaluatorReport, path: Path) -> None:
    """Draw into a file; the same report gives the same SVG.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure = plot_calibration(report)
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "calibration"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axes: "Axes", figures: EvaluatorFigures) -> None:
    axes.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=_TEXT_COLOUR, zorder=0)
    if figures.labels is not None:
        _draw_bins(axes, figures.labels.bins, _LABEL_COLOUR, "o", "acceptable", above=True)
    if figures.people is not None:
        _draw_bins(axes, figures.people.bins, _PEOPLE_COLOUR, "s", "people's rating", above=False)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.1, 1.12)
    axes.set_title(_title(figures), fontsize=10, color=_TEXT_COLOUR, parse_math=False)
    axes.tick_params(labelsize=9, colors=_TEXT_COLOUR)
    axes.spines[["top", "right"]].set_visible(False)
    if figures.labels is not None and figures.people is not None:
        axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_bins(axes: "Axes", bins: tuple[Bin, ...], colour: str, marker: str, label: str, *, above: bool) -> None:
    rated, outcomes = [one.rated for one in bins], [one.outcome for one in bins]
    axes.plot(rated, outcomes, color=colour, marker=marker, markersize=6, linewidth=1.5, label=label)
    for one in bins:
        axes.annotate(
            str(one.count),
            (one.rated, one.outcome),
            xytext=(0, 7 if above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=8,
            color=colour,
        )


def _title(figures: EvaluatorFigures) -> str:
    lines = [figures.name if len(figures.name) <= 40 else figures.name[:39] + "…"]
    if figures.labels is not None and figures.labels.auc is not None:
        lines.append(f"AUC {figures.labels.auc.value:.2f}, Brier score {figures.labels.brier:.3f}")
    if figures.people is not None and figures.people.spearman is not None:
        lines.append(f"Spearman correlation {figures.people.spearman.value:.2f}")
    return "\n".join(lines)


def _outcome(report: EvaluatorReport) -> str:
    parts = []
    if any(figures.labels is not None for figures in report.evaluators):
        parts.append("share of acceptable responses")
    if any(figures.people is not None for figures in report.evaluators):
        parts.append("people's mean rating / 100")
    return " or ".join(parts)
