"""`sda vllm --check`: whether SDA can run in the vLLM that is found."""

import json
import subprocess

import typer
from rich.console import Console

from sda_engine.cli.terminal import output_console, starting
from sda_engine.errors import SDAError
from sda_integrations.vllm.environments import REMEDY, Environment, find_environment, look_into, problems_of
from sda_integrations.vllm.options import VLLMOptions
from sda_integrations.vllm.surface import SURFACE, tested_versions

_CHECKING = "sda_integrations.vllm.checking"
_SECONDS = 300  # for importing vLLM for the first time on a busy machine


def check(options: VLLMOptions) -> None:
    """Tell what is found, and end with 1 where SDA cannot run in it.

    Raises:
        typer.Exit: it cannot.
    """
    console = output_console()
    try:
        problems = _told(console, options)
    except SDAError as error:
        problems = [str(error)]
    for problem in problems:
        console.print(f"- {problem}", soft_wrap=True)
    if problems:
        console.print("SDA cannot run in it.")
        raise typer.Exit(1)
    console.print("SDA can run in it.")


def _told(console: Console, options: VLLMOptions) -> list[str]:
    """What is wrong with the vLLM that is found, after a line that tells which that is."""
    environment = find_environment(options.python)
    installed = look_into(environment)
    console.print(
        f"vLLM {installed.vllm or 'is missing'} for {environment.python}; this version of SDA was tested with "
        f"{tested_versions()}, of which it uses {len(SURFACE)} things that vLLM does not promise to keep.",
        soft_wrap=True,
    )
    problems = problems_of(environment, installed, untested=options.untested)
    if installed.vllm is None or problems:
        return problems if installed.vllm is not None else [*problems, REMEDY]
    with starting():
        return look_inside(environment)


def look_inside(environment: Environment) -> list[str]:
    """What is missing of vLLM, or of what our part imports, in an environment; it takes ten seconds and more.

    Raises:
        SDAError: the check itself fails there.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named
            environment.command(_CHECKING),
            env=environment.environ(),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        problems: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise SDAError(f"vLLM cannot be looked into with {environment.python}: {lines[-1]}. {REMEDY}") from error
    return problems
