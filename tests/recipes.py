"""Runs recipes as scripts, each in a fork of one process: to import what they import takes longer than most of them.

It is called with python -m, so that the folders of tests do not stand in for the packages they are named after.

Standard input: the path of a recipe and of a file for what it prints, a line each. Standard output: its exit status.
"""

import importlib
import os
import runpy
import sys
import traceback
from pathlib import Path

IMPORTED = ("langchain.agents", "llama_index.core", "sda_integrations.langchain", "sda_integrations.llama_index")


def run(recipe: str, printed: str) -> int:
    """The exit status of a recipe, in the fork."""
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    sys.argv, sys.path[0] = [recipe], str(Path(recipe).parent)
    try:
        runpy.run_path(recipe, run_name="__main__")
    except Exception:  # noqa: BLE001 - as the interpreter does at the end of a script
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        fork = os.fork()
        if fork == 0:
            sys.exit(run(*line.split()))
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
