"""The check that what is used of vLLM is there, and is what it was. Importing this module imports no vLLM."""

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import CodeType

from sda_integrations.vllm.hooks import SURFACE, Hook

TESTED = ((0, 32),)
"""Major and minor numbers of the versions of vLLM that this package was tested with."""


def is_tested(version: str) -> bool:
    """Whether this package was tested with a version of vLLM, such as "0.32.0" or "0.32.1+cu129"."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) in TESTED


def tested_versions() -> str:
    """The versions that this package was tested with, as text."""
    return " and ".join(f"{major}.{minor}.x" for major, minor in TESTED)


def check_surface(surface: Sequence[Hook] = SURFACE) -> list[str]:
    """What is missing of the surface, or works otherwise; a sentence each, and none where all is as it was tested.

    It imports vLLM, which takes ten seconds.
    """
    return [problem for hook in surface for problem in _problems(hook)]


def demand_surface(surface: Sequence[Hook] = SURFACE) -> None:
    """Refuse to go on in a vLLM that lacks what is needed: its answers would be wrong in silence.

    Raises:
        ImportError: something is missing.
    """
    problems = check_surface(surface)
    if problems:
        raise ImportError(
            f"This vLLM is none that SDA can run in: {' '.join(problems)} Install vLLM {tested_versions()}, with: "
            f"sda vllm --install"
        )


def _problems(hook: Hook) -> Iterator[str]:
    try:
        found = _find(hook.module, hook.name)
    except (ImportError, AttributeError) as error:
        yield f"{hook} is missing, which {hook.why} ({error})."
        return
    if hook.parameters is not None and not _takes(found, hook.parameters):
        yield f"{hook}, which {hook.why}, takes {_shown(found)} in place of ({', '.join(hook.parameters)})."
    if unused := [name for name in hook.uses if name not in _names_used(found)]:
        yield f"{hook}, which {hook.why}, has nothing to do with {', '.join(unused)} any more."


def _find(module: str, name: str) -> object:
    found: object = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _takes(found: object, expected: tuple[str, ...]) -> bool:
    if not callable(found):
        return False
    parameters = [one for name, one in inspect.signature(found).parameters.items() if name != "self"]
    if tuple(one.name for one in parameters[: len(expected)]) != expected:
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(one.default is not one.empty or one.kind in optional for one in parameters[len(expected) :])


def _shown(found: object) -> str:
    return str(inspect.signature(found)) if callable(found) else f"nothing: it is a {type(found).__name__}"


def _names_used(function: object) -> set[str]:
    """The names of attributes and globals that a function reads or sets, those of functions within it too."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    waiting, names = [code], set[str]()
    while waiting:
        if isinstance(one := waiting.pop(), CodeType):
            names |= set(one.co_names)
            waiting += one.co_consts
    return names
