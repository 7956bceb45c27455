"""Options of `sda serve`. Imports nothing heavy.

None means what the file of --config says, and where that says nothing, the default of the settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


def _who(help_text: str, **settings: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Who may ask", **settings)


def _steering(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Steering")


def _model(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Model")


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, where, to whom, and how to steer where requests do not say."""

    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with the same names, and with tables for what is no option: alignments, evaluators, "
            "steering, sampling, limits, engine, adapters. Options come before it.",
            metavar="FILE.toml",
        ),
    ] = None
    host: Annotated[str | None, typer.Option(help="Address to listen at. Default: 127.0.0.1.")] = None
    port: Annotated[int | None, typer.Option(help="Port to listen at; 0 takes a free one. Default: 8000.")] = None
    shutdown_seconds: Annotated[
        float | None, typer.Option(help="How long running requests may go on once it is told to end. Default: 30.")
    ] = None
    api_key: Annotated[
        list[str] | None,
        _who(
            "A key of which requests must bring one. Can be given several times. Everybody on the machine can read it "
            "in the list of processes: better set SDA_API_KEY, to one or to several with blanks between.",
            envvar="SDA_API_KEY",
        ),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        _who("Let web pages of this origin ask, as in https://example.org. Can be given several times. Default: none."),
    ] = None
    device: Annotated[str | None, _model("auto, or a torch device such as cpu or cuda:0.")] = None
    dtype: Annotated[str | None, _model("auto, float32, bfloat16 or float16.")] = None
    served_model_name: Annotated[str | None, _model("What clients call the model. Default: MODEL.")] = None
    alignment: Annotated[
        list[str] | None,
        _steering(
            "What is steered by where requests do not say: a preset (see 'sda presets'), an alignment of the file or "
            "an instruction of your own. Given several times, they are combined, and ':NUMBER' at an end is a weight: "
            "honesty:2. Default: plain answers."
        ),
    ] = None
    evaluator: Annotated[
        str | None,
        _steering(
            "Who rates base responses where requests do not say: an evaluator of the file, fixed:SCORE, contrastive, "
            "self-rating, uncertainty, openai:MODEL or reward:MODEL. Clients may name it too. Default: fixed:50."
        ),
    ] = None
    evaluator_url: Annotated[
        str | None, _steering("Address of an OpenAI-compatible server, for the evaluator openai:MODEL.")
    ] = None
