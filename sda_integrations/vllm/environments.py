"""Where vLLM is, what is installed there, and how code of ours runs in it. Imports nothing heavy.

vLLM asks for older versions of transformers and llguidance than the engine does, so it has an environment of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from sysconfig import get_path

import sda_engine
import sda_integrations
from sda_engine.errors import SDAError
from sda_integrations.vllm.surface import is_tested, tested_versions

DISTRIBUTION = "sda-integrations"
PYTHON_VARIABLE = "SDA_VLLM_PYTHON"
REMEDY = "Make an environment for it with: sda vllm --install"

_OLDEST_PYTHON = (3, 11)
_SECONDS = 120  # for the first start of an interpreter on a busy machine

# Runs in vLLM's interpreter, with the standard library alone, before anything of ours can be imported there
_PROBE = """
import importlib.util, json, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
found = importlib.util.find_spec("vllm") is not None
names = packages_distributions().get("vllm", []) if found else []
known = [of(name) for name in names if name != sys.argv[1]]
print(json.dumps({
    "python": list(sys.version_info[:2]),
    "vllm": (known or ["unknown"])[0] if found else None,
    "own": of(sys.argv[1]),
    "missing": [name for name in sys.argv[2:] if of(name) is None],
}))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter that has vLLM, and where it finds our packages.

    Attributes:
        python: its path.
        folders: where our packages are imported from, behind everything of its own; () where they are installed there.
    """

    python: Path
    folders: tuple[str, ...] = ()

    def command(self, module: str, arguments: Sequence[str] = ()) -> list[str]:
        """What runs `main` of a module of ours in it.

        The folder that one is in is not searched, as it is not by the command `vllm`, and ours come last: what vLLM
        brings shall win.
        """
        code = f"import sys; sys.path += {list(self.folders)!r}; from {module} import main; main()"
        return [str(self.python), "-P", "-c", code, *arguments]

    def environ(self) -> dict[str, str]:
        """The environment variables of what runs in it: this process's own, its programs before others."""
        programs = str(self.python.parent)
        return {
            **os.environ,
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
            "VIRTUAL_ENV": str(self.python.parent.parent),
        }


@dataclass(frozen=True)
class Installed:
    """What an environment has.

    Attributes:
        python: major and minor number.
        vllm: its version; None where it has none.
        own: version of our package; None where it is not installed there.
        missing: distributions that our part needs and that it lacks.
    """

    python: tuple[int, int]
    vllm: str | None
    own: str | None
    missing: tuple[str, ...]


def find_environment(given: Path | None = None) -> Environment:
    """The environment of vLLM: one that is named, the command's own, or .venv/vllm here or beside the command's own.

    Args:
        given: an interpreter; of --python, or of SDA_VLLM_PYTHON.

    Raises:
        SDAError: there is none.
    """
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise SDAError(
                f"There is no interpreter at {given}, which --python or {PYTHON_VARIABLE} names. Name the python of "
                f"the environment that has vLLM, e.g. .venv/vllm/bin/python."
            )
        return Environment(given.absolute(), own_folders())
    if importlib.util.find_spec("vllm") is not None:
        return Environment(Path(sys.executable))
    places = [Path.cwd() / ".venv" / "vllm", Path(sys.prefix) / "vllm"]
    for folder in places:
        if os.access(python := folder / "bin" / "python", os.X_OK):
            return Environment(python, own_folders())
    raise SDAError(
        f"There is no vLLM here: it is not installed beside this command, {PYTHON_VARIABLE} is not set, and there is "
        f"no environment in {' or '.join(map(str, places))}. {REMEDY}"
    )


def own_folders() -> tuple[str, ...]:
    """Where our packages were imported from, if nothing else is installed there: the folders of a checkout."""
    folders = [str(Path(str(package.__file__)).parent.parent) for package in (sda_engine, sda_integrations)]
    shared = {str(Path(get_path(scheme))) for scheme in ("purelib", "platlib")}
    return () if shared & set(folders) else tuple(dict.fromkeys(folders))


def look_into(environment: Environment) -> Installed:
    """What is installed in an environment.

    Raises:
        SDAError: its interpreter does not run.
    """
    command = [str(environment.python), "-P", "-c", _PROBE, DISTRIBUTION, *map(_name, needed_packages())]
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named
            command, env=environment.environ(), capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        told = json.loads(done.stdout)
        return Installed(tuple(told["python"]), told["vllm"], told["own"], tuple(told["missing"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise SDAError(
            f"{environment.python} cannot be asked what it has installed: {_reason(error)}. {REMEDY}"
        ) from error


def problems_of(environment: Environment, installed: Installed, *, untested: bool = False) -> list[str]:
    """Why the server cannot run in an environment, a sentence each; what vLLM is like inside is not looked at.

    Args:
        untested: whether versions may be tried that this one was not tested with.
    """
    found = []
    if installed.python < _OLDEST_PYTHON:
        found.append(f"Its Python is {_dotted(installed.python)}, and SDA needs {_dotted(_OLDEST_PYTHON)} or newer.")
    if installed.vllm is None:
        found.append("It has no vLLM.")
    elif not is_tested(installed.vllm) and not untested:
        found.append(
            f"Its vLLM is {installed.vllm}, and this version of SDA was tested with {tested_versions()} only: with "
            f"another its answers could be wrong. --untested tries it all the same."
        )
    if not environment.folders and installed.own != version(DISTRIBUTION):
        has = "no sda-integrations" if installed.own is None else f"sda-integrations {installed.own}"
        found.append(f"It has {has}, and this is {version(DISTRIBUTION)}: both must have the same.")
    if installed.missing:
        names = " ".join(f"'{requirement}'" for requirement in needed_packages())
        found.append(f"It lacks {', '.join(installed.missing)}: {environment.python} -m pip install {names}")
    return found


def usable_environment(given: Path | None = None, *, untested: bool = False) -> Environment:
    """The environment of vLLM, if the server can run in it as far as can be told without importing vLLM.

    Args:
        given: as for `find_environment`.
        untested: as for `problems_of`.

    Raises:
        SDAError: there is none, or it cannot.
    """
    environment = find_environment(given)
    problems = problems_of(environment, look_into(environment), untested=untested)
    if problems:
        raise SDAError(f"SDA cannot run in the environment of {environment.python}: {' '.join(problems)}")
    return environment


def needed_packages() -> list[str]:
    """What our part needs that vLLM does not bring: the extra "vllm"."""
    parts = (requirement.partition(";") for requirement in requires(DISTRIBUTION) or ())
    return [needed.strip() for needed, _, marker in parts if marker.strip().replace('"', "'") == "extra == 'vllm'"]


def _name(requirement: str) -> str:
    end = next((place for place, letter in enumerate(requirement) if letter in "<>=!~ [;"), None)
    return requirement[:end]


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _reason(error: Exception) -> str:
    """The last line of what a failed process wrote, or what the error says itself."""
    lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
