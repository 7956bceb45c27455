"""`sda compare`: what the model says by itself, with the instruction in its prompt, and steered."""

import asyncio
import json
import secrets
from contextlib import aclosing
from dataclasses import dataclass, replace

import typer
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sda_engine import Completion, SteeringEngine
from sda_engine.cli.options import ModelOptions, RequestOptions
from sda_engine.cli.requests import EngineRequest, completion_as_dict, load_engine, make_request
from sda_engine.cli.terminal import error_console, output_console
from sda_engine.cli.views import describe_figures


@dataclass
class Answer:
    """One of the answers, which grows while it is decoded."""

    title: str
    request: EngineRequest
    text: str = ""
    completion: Completion | None = None


def run(prompt: str, model: ModelOptions, options: RequestOptions, *, as_json: bool) -> None:
    """Print the answers side by side; on a terminal, they can be watched as they grow."""
    console = error_console()
    request = make_request(prompt, options)
    if request.sampling.seed is None:  # one for all answers, and told, so that a comparison can be repeated
        request = replace(request, sampling=request.sampling.replace(seed=secrets.randbelow(2**31)))
    answers = _answers(request)
    engine = load_engine(model, console)
    with Live(console=console, transient=True, get_renderable=lambda: _table(answers, request, engine)):
        asyncio.run(_decode(engine, answers))
    if as_json:
        typer.echo(json.dumps(_as_dict(answers, request, engine), indent=2))
    else:
        output_console().print(_table(answers, request, engine))


def _answers(request: EngineRequest) -> list[Answer]:
    plain = request.steering.fitting(None)
    base = Answer("base", replace(request, alignment=None, steering=plain))
    policy = request.steering.policy_for(whole=True)
    steered = Answer("steered", replace(request, steering=request.steering.replace(policy=policy)))
    if request.alignment is None or not request.alignment.instructions:  # then the instructed answer is the base one
        return [base, steered]
    without_avoid = {} if request.alignment.avoid is None else {"avoid_strength": 0.0}
    instructed = request.steering.replace(policy="paper", amplification=0.0, **without_avoid)
    return [base, Answer("instructed", replace(request, steering=instructed)), steered]


async def _decode(engine: SteeringEngine, answers: list[Answer]) -> None:
    """Ask for all answers at once, so that the engine can share its forward passes among them."""
    await asyncio.gather(*(_grow(engine, answer) for answer in answers))


async def _grow(engine: SteeringEngine, answer: Answer) -> None:
    request = answer.request
    pieces = engine.astream(request.messages, request.alignment, steering=request.steering, sampling=request.sampling)
    async with aclosing(pieces):
        async for piece in pieces:
            answer.text += piece.text
            answer.completion = piece.completion


def _table(answers: list[Answer], request: EngineRequest, engine: SteeringEngine) -> Table:
    alignment = request.alignment.name if request.alignment is not None else "none"
    caption = f"alignment {alignment} · {engine.name} · seed {request.sampling.seed}"
    table = Table(box=box.ROUNDED, expand=True, show_footer=True, caption=caption, footer_style="dim")
    for answer in answers:
        figures = "decoding ..." if answer.completion is None else describe_figures(answer.completion)
        table.add_column(answer.title, Text(figures), ratio=1)
    table.add_row(*(Text(answer.text.strip()) for answer in answers))
    return table


def _as_dict(answers: list[Answer], request: EngineRequest, engine: SteeringEngine) -> dict[str, object]:
    results = {answer.title: completion_as_dict(answer.completion) for answer in answers if answer.completion}
    return {
        "engine": engine.describe(),
        "messages": request.messages,
        "alignment": request.alignment.model_dump(mode="json") if request.alignment is not None else None,
        "seed": request.sampling.seed,
        "answers": results,
    }
