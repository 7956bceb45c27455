"""Options of `sda tune`. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.options import LENGTH_NAMES


@dataclass(frozen=True)
class TuneOptions:
    """What to steer by, how to tell that an answer follows, and what to write beside the table."""

    alignment: Annotated[
        list[str],
        typer.Option(
            help="A preset or an instruction of your own. Several are combined, with weights as in honesty:2.",
            show_default=False,
        ),
    ]
    follows: Annotated[
        str | None,
        typer.Option(help="An answer follows where this regular expression is found in it.", metavar="REGEX"),
    ] = None
    word: Annotated[
        list[str] | None,
        typer.Option(help="An answer follows where it holds this word or phrase. Can be given several times."),
    ] = None
    evaluator: Annotated[
        str | None,
        typer.Option(help="An answer follows where openai:MODEL or reward:MODEL scores it at least --score."),
    ] = None
    evaluator_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, for openai:MODEL.")
    ] = None
    score: Annotated[float, typer.Option(help="What counts as following, by --evaluator.", min=1, max=100)] = 60.0
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)] = None
    max_new_tokens: Annotated[int, typer.Option(*LENGTH_NAMES, help="Length limit of the answers.", min=1)] = 96
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the plane of what is kept and what is followed.", metavar="FILE.svg"),
    ] = None
