"""`sda generate`: one answer, as text that streams or as JSON."""

import json
import time
from contextlib import closing
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from sda_engine import Completion, SteeringEngine
from sda_engine.cli.options import ModelOptions, RequestOptions
from sda_engine.cli.requests import EngineRequest, completion_as_dict, load_engine, make_request
from sda_engine.cli.terminal import check_page, error_console, tell, write_page
from sda_engine.cli.views import describe_choice, describe_score


def run(
    prompt: str,
    model: ModelOptions,
    options: RequestOptions,
    *,
    plain: bool,
    as_json: bool,
    trace_file: Path | None,
) -> None:
    """Answer a prompt on standard output; figures go to standard error."""
    console = error_console()
    if trace_file is not None:
        check_page(trace_file)
    request = make_request(prompt, options, plain=plain)
    engine = load_engine(model, console)
    start = time.perf_counter()
    completion = _answer(engine, request, console, show=not as_json)
    seconds = time.perf_counter() - start
    if as_json:
        typer.echo(json.dumps({"engine": engine.describe(), **completion_as_dict(completion)}, indent=2))
    else:
        typer.echo()
        tell(console, Text(summary(completion, seconds), style="dim"))
    if trace_file is not None:
        write_page(trace_file, completion.trace.to_html())
        tell(console, Text(f"Trace: {trace_file}", style="dim"))


def summary(completion: Completion, seconds: float) -> str:
    """One line about an answer: its size, its speed, and what steering did."""
    tokens = completion.usage.completion_tokens
    facts = [f"{tokens} tokens in {seconds:.1f} s", f"finish: {completion.finish_reason}"]
    if completion.trace.alignment is not None:
        facts.append(f"alignment {completion.trace.alignment}")
    if completion.score is not None:
        facts.append(f"score {describe_score(completion)}")
    if completion.amplification is not None:
        facts.append(f"amplification {completion.amplification:.2f}, strength {completion.trace.strength:.2f}")
        facts.append(f"mean divergence {completion.trace.mean_divergence:.3f} nats")
    if completion.attempts:
        facts.append(describe_choice(completion))
    return " · ".join(facts)


def _answer(engine: SteeringEngine, request: EngineRequest, console: Console, *, show: bool) -> Completion:
    if not show:
        return engine.generate(
            request.messages, request.alignment, steering=request.steering, sampling=request.sampling
        )
    pieces = engine.stream(request.messages, request.alignment, steering=request.steering, sampling=request.sampling)
    with closing(pieces), console.status("Decoding ...") as status:
        for piece in pieces:
            if piece.text:
                status.stop()  # the text now moves the cursor
                typer.echo(piece.text, nl=False)
            if piece.completion is not None:
                return piece.completion
    raise AssertionError("the last piece carries the completion")
