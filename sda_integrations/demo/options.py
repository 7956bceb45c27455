"""The options of `sda demo`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated

import typer

from sda_engine.cli.options import LENGTH_NAMES


@dataclass(frozen=True)
class DemoOptions:
    """What to ask, and how to steer. The defaults are milder than the paper's, as suits a very small model."""

    question: Annotated[str, typer.Option(help="What a visitor asks the library.")] = (
        "My daughter lost her library book and I feel terrible. What do we have to pay?"
    )
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="A preset (see 'sda presets') or an instruction of your own. Several are combined, with weights as in "
            "honesty:2. Default: empathy."
        ),
    ] = None
    gain: Annotated[float, typer.Option(help="Constant multiplier of the amplification; 2 is the paper's.")] = 2.0
    amplification: Annotated[
        float | None, typer.Option(help="A fixed factor from 0 to 1, in place of the one that follows from a score.")
    ] = None
    evaluator: Annotated[
        str, typer.Option(help="Who rates the base response: fixed:SCORE, contrastive or openai:MODEL.")
    ] = "contrastive"
    plausibility: Annotated[
        float, typer.Option(help="Keep only tokens at least this likely under the instruction; the paper has 0.")
    ] = 0.1
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.6
    max_new_tokens: Annotated[int, typer.Option(*LENGTH_NAMES, help="Length limit of each answer.")] = 64
    seed: Annotated[int, typer.Option(help="The same seed repeats the same answers.")] = 1
