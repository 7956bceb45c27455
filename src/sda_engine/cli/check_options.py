"""Options of `sda evaluators check`. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class CheckOptions:
    """Who rates, what for, how often, and what to write beside the tables."""

    evaluator: Annotated[
        list[str] | None,
        typer.Option(
            help="contrastive[:sharpness=NUMBER], self-rating, uncertainty, fixed:SCORE, openai:MODEL or reward:MODEL. "
            "Can be given several times. Default: contrastive, self-rating and uncertainty.",
            metavar="NAME",
        ),
    ] = None
    evaluator_url: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible server, for openai:MODEL. Default: OpenAI, with OPENAI_API_KEY."
        ),
    ] = None
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="A preset or an instruction: what responses are rated for, where a line does not say. Several are "
            "combined, with weights as in honesty:2. Default: honesty."
        ),
    ] = None
    repeats: Annotated[int, typer.Option(help="How often each evaluator rates each pair.", min=1)] = 3
    limit: Annotated[int | None, typer.Option(help="Only the first so many pairs.", min=1)] = None
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw what scores mean, beside labels or people's ratings.", metavar="FILE.svg"),
    ] = None
