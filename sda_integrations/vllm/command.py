"""The command line of `sda vllm`. Imports nothing heavy, so that `sda --help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.options import Debug, hands_on_arguments, takes_options
from sda_engine.cli.terminal import session, starting
from sda_engine.errors import ConfigError
from sda_integrations.vllm.arguments import refuse_arguments
from sda_integrations.vllm.environments import usable_environment
from sda_integrations.vllm.options import OtherTasks, VLLMOptions


@hands_on_arguments
@takes_options
def vllm(
    options: VLLMOptions,
    tasks: OtherTasks,
    model: Annotated[
        str | None,
        typer.Argument(
            help="An alias, a folder, a GGUF file or a Hub id. Default: smollm2-135m.",
            metavar="MODEL",
            show_default=False,
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Arguments of `vllm serve`, which are handed on.", metavar="[ARGUMENTS OF VLLM]", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve one model with vLLM, with steering: for many requests at a time, on GPUs and on several machines."""
    given = arguments or []
    with session(debug=debug):
        if model is not None and model.startswith("-"):
            raise ConfigError(f"MODEL comes before vLLM's arguments, and {model!r} is none: sda vllm MODEL {model} ...")
        if tasks.install:
            from sda_integrations.vllm.installing import install

            install(None if model is None else Path(model), tasks.package)
        elif tasks.check:
            from sda_integrations.vllm.checks import check

            check(options)
        elif tasks.plan:
            from sda_integrations.vllm.plan.command import show_plan

            show_plan(model or "smollm2-135m", given)
        else:
            refuse_arguments(given)
            environment = usable_environment(options.python, untested=options.untested)
            with starting():
                from sda_integrations.vllm.launching import launch  # here, since it imports torch

            launch(model, options, environment, given)
