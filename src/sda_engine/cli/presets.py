"""`sda presets`."""

import json

import typer
from rich.table import Table

from sda_engine.alignment import PRESETS
from sda_engine.cli.terminal import output_console


def run(*, as_json: bool) -> None:
    """Print the presets' names and instructions."""
    if as_json:
        typer.echo(json.dumps({name: alignment.model_dump() for name, alignment in PRESETS.items()}, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, alignment in PRESETS.items():
        table.add_row(name, alignment.instruction)
    output_console().print(table)
