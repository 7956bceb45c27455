"""`sda info`: what would run here, for a report or a question."""

import json
from collections.abc import Mapping
from typing import cast

import typer
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sda_engine.cli.info_facts import Facts, gather
from sda_engine.cli.options import ModelOptions
from sda_engine.cli.requests import quieten_transformers
from sda_engine.cli.terminal import output_console

_UNITS = ("B", "kB", "MB", "GB", "TB")


def run(options: ModelOptions, *, as_json: bool) -> None:
    """Print what is known, without loading weights."""
    quieten_transformers()
    facts = gather(options)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    versions, machine, memory, cache, model = (
        cast(Facts, facts[name]) for name in ("versions", "machine", "memory", "cache", "model")
    )
    output_console().print(
        Group(
            _section("Versions", {name: told or "not installed" for name, told in versions.items()}),
            _section("Machine", _machine(machine)),
            _section("Memory", _memory(memory)),
            _section("Model", _model(model)),
            _section("Caches", _caches(cache)),
        )
    )


def _section(title: str, rows: Mapping[str, object]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in rows.items():
        table.add_row(name, Text(str(told)))
    return table


def _machine(facts: Facts) -> dict[str, object]:
    features = ", ".join(cast(list[str], facts["processor_features"])) or "none that matter here"
    return {
        "device": facts["device"],
        "dtype": f"{facts['dtype']}: {facts['dtype_reason']}",
        "processor": facts["processor"] or "unknown",
        "of its features": features,
        "threads": f"{facts['threads']} of {facts['usable_processors']} usable processors, {facts['cores']} cores",
    }


def _memory(facts: Facts) -> dict[str, object]:
    limit, tokens = facts["container_limit"], facts["keys_and_values_tokens"]
    room = size(facts["keys_and_values"])
    inside = "no limit" if limit is None else f"{size(facts['container_available'])} of {size(limit)} available"
    return {
        "host": f"{size(facts['host_available'])} of {size(facts['host_total'])} available",
        "container": inside,
        "keys and values": f"up to {room}" + ("" if tokens is None else f", {tokens:,} tokens"),
    }


def _model(facts: Facts) -> dict[str, object]:
    told = {"name": facts["name"], "found": facts["found"], "place": facts["place"]}
    if "problem" in facts:
        told["problem"] = facts["problem"]
    if "context_window" in facts:
        told["type"] = f"{facts['type']}, which sees pictures too" if facts["sees_pictures"] else facts["type"]
        told["context window"] = f"{facts['context_window']:,} tokens"
    if "context_window_reason" in facts:
        told["context window"] = (
            f"{facts['context_window']:,} tokens, not the {facts['stated_context_window']:,} that the model states: "
            f"{facts['context_window_reason']}"
        )
    if "runner" in facts:
        told["runner"] = f"{facts['runner']}: {facts['runner_reason']}" if "runner_reason" in facts else facts["runner"]
    if "weights_bytes" in facts:
        told["weights"] = size(facts["weights_bytes"])
        packed = f"yes, {size(facts['packed_bytes'])} more" if facts["packed"] else f"no: {facts['packed_reason']}"
        told["packed weights"] = packed
    return told


def _caches(facts: Facts) -> dict[str, object]:
    return {
        "converted models": f"{facts['converted_models']} ({size(facts['converted_models_bytes'])})",
        "Hub": f"{facts['hub']} ({size(facts['hub_bytes'])})",
    }


def size(count: object) -> str:
    """Bytes for people: 1536000 is "1.5 MB"."""
    value = float(cast(int, count))
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
