"""The plane of effect and cost: what settings keep, against what they follow."""

from collections.abc import Sequence
from pathlib import Path

from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluation.tuning import TunedArm


def save_plane(arms: Sequence[TunedArm], path: Path) -> None:
    """Draw each setting as a point with its intervals: kept to the right, followed upwards.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The plane needs matplotlib: pip install 'sda-integrations[plot]'") from error
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for arm in arms:
        axes.errorbar(
            100 * arm.kept.value,
            100 * arm.follows.value,
            xerr=_bars(arm.kept),
            yerr=_bars(arm.follows),
            fmt="o",
            capsize=2,
            label=f"{arm.name} (both {arm.both.value:.0%})",
        )
    axes.set(xlim=(0, 101), ylim=(0, 101))
    axes.set_xlabel("answers that hold what must stay, %")
    axes.set_ylabel("answers that follow the instruction, %")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path)


def _bars(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
