"""Runs recipes as scripts, each in a fork of one process: imports and model take longer to load than most of them run.

Plain text ends after a few tokens, but in `make endurance`.

It is called with python -m, so that the folders of tests do not stand in for the packages they are named after.

Standard input: the path of a recipe and of a file for what it prints, a line each. Standard output: its exit status.
"""

import gc
import importlib
import os
import runpy
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from sda_engine import SteeringEngine
from sda_engine.request_settings import RequestSettings
from tests.sizes import size

IMPORTED = (
    "langchain.agents",
    "langchain_classic.chains",
    "langchain_huggingface",
    "llama_index.core",
    "llama_index.embeddings.huggingface",
    "sda_integrations.langchain",
    "sda_integrations.llama_index",
    "sentence_transformers",
)
# The longest text and the longest that fits a schema or an expression. A call of a tool needs what it needs.
MOST_TOKENS, MOST_CONSTRAINED_TOKENS = size(10_000, 3), size(10_000, 20)


def shorten_answers() -> None:
    """Decoding takes nearly all the time of a recipe, and a few tokens show as well as many that it works."""
    made = RequestSettings.of

    def shorter(alignment: object, options: dict[str, object], *, whole: bool) -> RequestSettings:
        settings = made(alignment, options, whole=whole)
        most = settings.sampling.max_new_tokens
        if settings.output.constraint is not None:
            most = min(most, MOST_CONSTRAINED_TOKENS)
        elif not settings.output.tools:
            most = min(most, MOST_TOKENS)
        return replace(settings, sampling=settings.sampling.replace(max_new_tokens=most))

    RequestSettings.of = shorter


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
    SteeringEngine.load("smollm2-135m")  # which stays loaded, so that the recipes get it from here
    shorten_answers()
    gc.freeze()  # or each fork copies what its garbage collector looks at
    for line in sys.stdin:
        fork = os.fork()
        if fork == 0:
            sys.exit(run(*line.split()))
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
