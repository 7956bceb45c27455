"""What `sda` is made of. This module imports nothing heavy, so that `sda --help` answers at once.

Installed packages add commands through the entry point group "sda.commands": each entry is a function that typer
can read, best one that imports what it needs when it runs.
"""

import logging
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.check_options import CheckOptions
from sda_engine.cli.options import AsJson, Debug, ModelOptions, RequestOptions, takes_options
from sda_engine.cli.terminal import session, starting
from sda_engine.cli.tune_options import TuneOptions

logger = logging.getLogger(__name__)

COMMAND_GROUP = "sda.commands"
DISTRIBUTION = "sda-integrations"

Prompt = Annotated[str, typer.Argument(help="What to ask; '-' reads it from standard input.", show_default=False)]
TraceFile = Annotated[
    Path | None,
    typer.Option(help="Write a page that shows, token by token, what steering did.", metavar="FILE.html"),
]
PairsFile = Annotated[
    Path,
    typer.Argument(
        help='JSON lines: {"query": ..., "response": ...} with, optionally, "label" (true or false: acceptable or '
        'not), "score" (a person\'s rating, 1 to 100) and "alignment"; "messages" may stand in place of "query".',
        metavar="FILE",
        show_default=False,
    ),
]

CasesFile = Annotated[
    Path,
    typer.Argument(
        help='JSON lines: {"question": ..., "keep": ["43 euros"]}: the prompt, documents included, and what must stand '
        'in its answer; "messages" may stand in place of "question".',
        metavar="FILE",
        show_default=False,
    ),
]


@takes_options
def generate(
    prompt: Prompt,
    model: ModelOptions,
    request: RequestOptions,
    plain: Annotated[bool, typer.Option("--plain", help="Do not steer: the model's own answer.")] = False,
    as_json: AsJson = False,
    trace: TraceFile = None,
    debug: Debug = False,
) -> None:
    """Answer PROMPT. The text is written as it is decoded; figures follow on standard error."""
    with session(debug=debug):
        with starting():
            from sda_engine.cli.generate import run  # here, since it imports torch

        run(prompt, model, request, plain=plain, as_json=as_json, trace_file=trace)


@takes_options
def compare(
    prompt: Prompt, model: ModelOptions, request: RequestOptions, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Answer PROMPT plainly, with the instruction in the prompt only, and steered; side by side."""
    with session(debug=debug):
        with starting():
            from sda_engine.cli.compare import run  # here, since it imports torch

        run(prompt, model, request, as_json=as_json)


def presets(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the alignments that have a name, with their instructions."""
    with session(debug=debug):
        from sda_engine.cli.presets import run  # here, since it imports pydantic

        run(as_json=as_json)


@takes_options
def check(
    file: PairsFile, model: ModelOptions, options: CheckOptions, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Have evaluators rate the responses in FILE: failures, spread, latency, and how far they rate as people do."""
    with session(debug=debug):
        with starting():
            from sda_engine.cli.evaluators import run  # here, since it imports torch

        run(file, model, options, as_json=as_json)


@takes_options
def info(model: ModelOptions, as_json: AsJson = False, debug: Debug = False) -> None:
    """Tell what would run here: versions, device and dtype, memory, and where the model is. Loads no weights."""
    with session(debug=debug):
        with starting():
            from sda_engine.cli.info import run  # here, since it imports torch

        run(model, as_json=as_json)


@takes_options
def tune(
    file: CasesFile, model: ModelOptions, options: TuneOptions, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Try settings of steering on the questions in FILE: which follow, and keep what must stay in the answers?"""
    with session(debug=debug):
        with starting():
            from sda_engine.cli.tune import run  # here, since it imports torch

        run(file, model, options, as_json=as_json)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sda {version(DISTRIBUTION)}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version, and end.")
    ] = False,
) -> None:
    """Align a local language model while it decodes (SDA), without fine-tuning."""


def make_app() -> typer.Typer:
    """The `sda` command with the subcommands of all installed packages.

    A subcommand that cannot be imported is logged and left out: the others must go on working.
    """
    app = typer.Typer(
        name="sda",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,  # they may hold keys
    )
    app.callback()(_main)
    for command in (generate, compare, tune, presets, info):
        app.command()(command)
    evaluators = typer.Typer(help="Find out how well evaluators rate.", no_args_is_help=True)
    evaluators.command()(check)
    evaluators.callback()(lambda: None)  # else typer takes a group of one command for that command
    app.add_typer(evaluators, name="evaluators")
    for entry in sorted(entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name):
        try:
            add_command(app, entry.name, entry.load())
        except (ImportError, AttributeError) as error:
            logger.warning("The command 'sda %s' cannot be loaded from %s: %s", entry.name, entry.value, error)
    return app


def add_command(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Add a function as a subcommand, with what `hands_on_arguments` says of it."""
    app.command(name, context_settings=getattr(command, "context_settings", None))(command)


def main() -> None:
    """Run the `sda` command."""
    make_app()()
