"""Runs in vLLM's environment for `sda vllm --check`: prints, as JSON in the last line, what is missing there."""

import json
from importlib import import_module

from sda_integrations.vllm.surface import check_surface

_OWN = (
    "sda_engine.engine",
    "sda_integrations.server.app",
    "sda_integrations.vllm.scheduler",
    "sda_integrations.vllm.processor",
    "sda_integrations.vllm.middleware",
)


def main() -> None:
    """Print what is missing."""
    problems = check_surface()
    for module in _OWN if not problems else ():
        try:
            import_module(module)
        except ImportError as error:
            problems.append(f"{module} cannot be imported there: {error}.")
    print(json.dumps(problems))  # noqa: T201 - what it is for
