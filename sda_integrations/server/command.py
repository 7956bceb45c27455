"""The command line of `sda serve`. Imports nothing heavy, so that `sda --help` answers at once."""

from typing import Annotated

import typer

from sda_engine.cli.extras import check_installed
from sda_engine.cli.options import Debug, takes_options
from sda_engine.cli.terminal import session, starting
from sda_integrations.server.options import ServeOptions

_NEEDS = ("fastapi", "uvicorn", "prometheus_client")


@takes_options
def serve(
    options: ServeOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            help="An alias, a folder, a GGUF file or a Hub id. Default: smollm2-135m.",
            metavar="MODEL",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve one model to clients of OpenAI's interface, with steering. In one process: each would load it again."""
    with session(debug=debug):
        check_extra()
        with starting():
            from sda_integrations.server.run import run  # here, since it imports torch

        run(model, options, debug=debug)


def check_extra() -> None:
    """Check that the extra "server" is installed.

    Raises:
        SDAError: it is not, or not wholly.
    """
    check_installed("The server needs", _NEEDS, "server")
