"""Draws the figures of docs/concepts.md from a real model: the two contexts, and one token before and after steering.

    python benchmarks/figures.py [--model smollm2-135m] [--out docs/figures]

The place that is shown is the one of the first tokens of a greedy answer where the two contexts differ most.
"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sda_engine import PRESETS, Sampling, Steering, SteeringEngine
from sda_engine.steering import js_divergence, steer

QUESTION = "I failed my driving test today."
ALIGNMENT = PRESETS["empathy"]
STRENGTH = 0.92  # of the defaults
TOKENS = 24  # of the answer, among which the place is sought
SHOWN = 8  # tokens in the chart
BASE_COLOUR, INSTRUCTED_COLOUR, STEERED_COLOUR, TEXT_COLOUR = "#c3ccd2", "#56b4e9", "#0b6e4f", "#333333"
SHARED_COLOUR = "#eef1f3"
SHARED = "shared, computed once\n\nsystem turn, history,\ndocuments\n\n"

Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """One place of an answer: what came before it, and the distributions there, each (vocab,) in nats."""

    before: str
    base: torch.Tensor
    instructed: torch.Tensor
    steered: torch.Tensor
    divergence: float


def main() -> None:
    """Decode and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "figures")
    arguments = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "figures"  # the same model gives the same files
    with SteeringEngine.load(arguments.model, dtype="float32") as engine:
        place = telling_place(engine)
        save(draw_contexts(engine, place), arguments.out / "contexts.svg")
        save(draw_token(engine, place), arguments.out / "token.svg")


def telling_place(engine: SteeringEngine) -> Place:
    """Where the instruction matters most."""
    done = engine.generate(
        [{"role": "user", "content": QUESTION}],
        ALIGNMENT,
        steering=Steering(policy="paper", gain=STRENGTH, amplification=1.0),
        sampling=Sampling(temperature=0, max_new_tokens=TOKENS),
    )
    answer = list(done.token_ids)
    base = answer_logprobs(engine, QUESTION, answer)
    instructed = answer_logprobs(engine, f"{QUESTION}\n{ALIGNMENT.instruction}", answer)
    divergence = js_divergence(base, instructed)  # (tokens,)
    where = int(divergence.argmax())
    steered = steer(base, instructed, STRENGTH).log_softmax(dim=-1)
    before = engine.tokenizer.decode(answer[:where])
    return Place(before, base[where], instructed[where], steered[where], float(divergence[where]))


def answer_logprobs(engine: SteeringEngine, prompt: str, answer: Sequence[int]) -> torch.Tensor:
    """The distributions at the places of an answer, (tokens, vocab) in nats, in one forward pass of the bare model."""
    ids = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    with torch.inference_mode():
        logits = engine.model(torch.tensor([[*ids, *answer]])).logits[0]
    return logits[len(ids) - 1 : -1].float().log_softmax(dim=-1)


def draw_token(engine: SteeringEngine, place: Place) -> Figure:
    """Bars of the likeliest tokens in the three distributions."""
    distributions = (
        ("base", place.base, BASE_COLOUR),
        ("instruction in the prompt", place.instructed, INSTRUCTED_COLOUR),
        (f"steered, strength {STRENGTH}", place.steered, STEERED_COLOUR),
    )
    highest = torch.stack([logprobs for _, logprobs, _ in distributions]).max(dim=0).values
    shown = highest.topk(SHOWN).indices.tolist()
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, (label, logprobs, colour) in enumerate(distributions):
        places = [place + (row - 1) * 0.27 for place in range(SHOWN)]
        axes.barh(places, logprobs[shown].exp().tolist(), height=0.25, color=colour, label=label)
    axes.set_yticks(range(SHOWN), [repr(engine.tokenizer.decode([token]))[1:-1].replace(" ", "␣") for token in shown])
    axes.invert_yaxis()
    axes.set_xlabel("probability")
    axes.legend(frameon=False, loc="lower right")
    answer = f'after "{place.before}"' if place.before else "the first token of the answer"
    axes.set_title(
        f'"{QUESTION}"  +  "{ALIGNMENT.instruction}"\n{answer}: divergence {place.divergence:.2f} nats',
        fontsize=10,
        color=TEXT_COLOUR,
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_contexts(engine: SteeringEngine, place: Place) -> Figure:
    """What the two contexts of the request hold, and how one token comes of them."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 18), ylim=(0, 6.4))
    axes.axis("off")
    box(axes, (0.1, 1.6), (3.6, 3.2), SHARED_COLOUR, SHARED + wrapped(QUESTION))
    box(axes, (4.0, 3.7), (3.6, 1.9), SHARED_COLOUR, "base context\n\nno instruction")
    box(axes, (4.0, 0.8), (3.6, 1.9), SHARED_COLOUR, f"instructed context\n\n{wrapped(str(ALIGNMENT.instruction))}")
    box(axes, (7.9, 0.8), (1.9, 4.8), SHARED_COLOUR, "the same\nanswer\nso far\n\n" + wrapped(place.before, 13))
    box(axes, (10.3, 3.7), (2.9, 1.9), BASE_COLOUR, "P1\n" + likeliest(engine, place.base))
    box(axes, (10.3, 0.8), (2.9, 1.9), INSTRUCTED_COLOUR, "P2\n" + likeliest(engine, place.instructed))
    box(axes, (14.2, 2.1), (3.6, 2.2), STEERED_COLOUR, "steered\n" + likeliest(engine, place.steered), colour="white")
    for row in (4.65, 1.75):
        arrow(axes, (9.8, row), (10.3, row))
        arrow(axes, (13.2, row), (14.2, 3.2 + (row - 3.2) * 0.4))
    axes.text(10.05, 6.0, "one forward pass, two rows", ha="center", fontsize=8, color=TEXT_COLOUR)
    axes.text(
        16, 1.3, "one token is drawn and\nappended to both", ha="center", va="center", fontsize=8, color=TEXT_COLOUR
    )
    return figure


def likeliest(engine: SteeringEngine, logprobs: torch.Tensor) -> str:
    """The three likeliest tokens with their probabilities, a line each."""
    top = logprobs.exp().topk(3)
    tokens = [engine.tokenizer.decode([token]).strip() for token in top.indices.tolist()]
    return "\n".join(f"{token}  {share:.0%}" for token, share in zip(tokens, top.values.tolist(), strict=True))


def wrapped(text: str, width: int = 24) -> str:
    """The text in lines of at most so many letters."""
    return "\n".join(textwrap.wrap(text, width))


def box(axes: Axes, corner: Point, size: Point, fill: str, text: str, colour: str = TEXT_COLOUR) -> None:
    """A box with a text in its middle."""
    shape = "round,pad=0.02,rounding_size=0.15"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, facecolor=fill, linewidth=0))
    middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    axes.text(*middle, text, ha="center", va="center", fontsize=8, color=colour)


def arrow(axes: Axes, start: Point, end: Point) -> None:
    """An arrow between two points."""
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "color": TEXT_COLOUR})


def save(figure: Figure, path: Path) -> None:
    """Write without a date, so that the same picture is the same file."""
    figure.savefig(path, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
