"""Draw what speed.py kept: how many times as fast as plain `generate` each contender is.

    python benchmarks/plot_speed.py FILE.json [FILE.json ...] FILE.svg

`python benchmarks/speed.py --save FILE.json` keeps the figures, of all cases or with `--only` of one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from contenders import CHAT_HUGGING_FACE, GUIDANCE, PROMPT_LOOKUP, TWO_FORWARDS
from matplotlib.figure import Figure
from results import Result, load

PEERS = (GUIDANCE, TWO_FORWARDS, PROMPT_LOOKUP, CHAT_HUGGING_FACE)
OURS_COLOUR, PEER_COLOUR, TEXT_COLOUR = "#0b6e4f", "#c3ccd2", "#333333"
BAR, GAP = 0.8, 0.9  # height of a bar and space between two cases, where a row is 1


def main() -> None:
    """Read and draw."""
    *saved, picture = map(Path, sys.argv[1:])
    plot([result for file in saved for result in load(file)[1]], picture)


def plot(results: Sequence[Result], path: Path) -> None:
    """One horizontal bar chart, a group per case; plain `generate` is the line at 1."""
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # the same figures give the same file
    shown = [result for result in results if is_shown(result)]
    cases = list(dict.fromkeys(result.case for result in shown))
    figure = Figure(figsize=(9, 0.3 * (len(shown) + GAP * len(cases)) + 0.9), layout="constrained")
    axes = figure.subplots()
    place, labels = 0.0, {}
    for case in cases:
        plain = next(result.seconds_per_token for result in results if result.case == case and result.is_plain)
        axes.text(0, place - 0.8, case, fontweight="bold", fontsize=9, color=TEXT_COLOUR)
        for result in (result for result in shown if result.case == case):
            times = plain / result.seconds_per_token
            axes.barh(place, times, height=BAR, color=OURS_COLOUR if result.is_ours else PEER_COLOUR)
            axes.annotate(
                f"{times:.2f}",
                (times, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=TEXT_COLOUR,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
            labels[place] = result.contender
            place += 1
        place += GAP
    axes.axvline(1, color=TEXT_COLOUR, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(list(labels), list(labels.values()), fontsize=8)
    axes.set_ylim(place - GAP, -1.6)
    axes.set_xlabel(
        "times as fast as transformers' generate with one context (dashed line), higher is better", fontsize=9
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def is_shown(result: Result) -> bool:
    """Whether the chart has room for it: our engine and a few peers, where tokens per second are measured."""
    return not result.first_token and (result.is_ours or result.contender in PEERS)


if __name__ == "__main__":
    main()
