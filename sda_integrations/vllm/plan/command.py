"""`sda vllm --plan`: what a model with steering needs of GPUs. Imports nothing heavy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.options import AsJson, takes_options
from sda_engine.cli.terminal import output_console, starting
from sda_integrations.vllm.plan.models import PRESETS, ModelSizes
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import make_plan
from sda_integrations.vllm.plan.views import plan_json, plan_view


def show_plan(model: str, arguments: Sequence[str]) -> None:
    """Print a plan.

    Args:
        model: a name of `PRESETS`, a folder with config.json, or a Hub id, of which config.json alone is read.
        arguments: what else stands on the command line: options of `PlanOptions`, among them those of `vllm serve` that
            matter to a plan under their own names, and --json; --help lists them.

    Raises:
        ConfigError: an option is out of range, or the model does not fit.
        ModelLoadError: the model's sizes could not be read.
        typer.Exit: an option is unknown or malformed, which was told on standard error as in any other command.
    """
    app = typer.Typer(add_completion=False)
    app.command()(_plan)
    try:
        typer.main.get_command(app).main([*arguments, "--", model], "sda vllm --plan")
    except SystemExit as end:  # as commands end that stand alone, the good ones too
        if end.code:
            raise typer.Exit(2) from end


@takes_options
def _plan(
    model: Annotated[str, typer.Argument(metavar="MODEL")], options: PlanOptions, as_json: AsJson = False
) -> None:
    """Plan how much of MODEL and of its requests fits on GPUs, and how fast they can be, without starting anything."""
    plan = make_plan(find_sizes(model), options)
    if as_json:
        typer.echo(json.dumps(plan_json(plan), indent=2))
    else:
        output_console().print(plan_view(plan))


def find_sizes(model: str) -> ModelSizes:
    """The sizes of a model: typed in for well-known ones, else from its configuration.

    Raises:
        ConfigError: it stores something else than a plan can count.
        ModelLoadError: there is no configuration to be had.
    """
    if model in PRESETS and not Path(model).is_dir():
        return PRESETS[model]
    with starting():
        from sda_integrations.vllm.plan.reading import sizes_of_config  # here, since it imports torch

    return sizes_of_config(model)
