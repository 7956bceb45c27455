"""Which types of transformers the engine runs: every one, tiny and random, held against a plain loop.

    python benchmarks/census.py [--only TYPE ...] [--vision] [--jobs N] [--markdown docs/reference/models.md]

"exact": the greedy steered answers to eight questions at once (of different lengths and numbers of rows, one asked
before, two after a base response) have the tokens of one forward pass per row and token without a cache, and their
log-probabilities are off by less than a ten-thousandth of the largest logit. "different" also has what is accepted and
then fails, and what does not end within its time. The vision-language types are asked with text alone, by --vision. The
last line counts the decoder-only types.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from census_models.examining import Finding
from census_models.families import family_of
from census_models.page import by_family, count, fill_page
from census_models.running import examine_all
from census_models.types import TYPES, Group
from rich.console import Console
from rich.table import Table
from timing import describe_machine

TITLES: dict[Group, str] = {
    "variant": "Variants: what checkpoints of a type have and its default config has not",
    "other": "Causal by their mapping alone: encoders, decoders of encoder-decoders, speech and music",
    "vision": "Vision-language types, with text alone",
    "decoder": "Decoder-only types",
}
COLUMNS = ("family", "type", "verdict", "runner", "why")


def main() -> None:
    """Examine, print, and fill the page."""
    arguments = parse_arguments()
    groups: list[Group] = [group for group in TITLES if group != "vision" or arguments.vision]
    asked = {group: chosen(TYPES[group], arguments.only) for group in groups}
    findings = run(asked, arguments.jobs, arguments.limit)
    print(describe_machine(torch.float32))
    for group, names in asked.items():
        if names or group == "decoder":
            print_group(group, [one for one in findings if one.group == group])
    if arguments.markdown is not None:
        page = arguments.markdown.read_text(encoding="utf-8")
        for group in groups:
            page = fill_page(page, group, [one for one in findings if one.group == group])
        arguments.markdown.write_text(page, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The options, checked against each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these types of transformers alone")
    parser.add_argument("--vision", action="store_true", help="vision-language types, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once, one thread each")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each type")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page whose tables are filled in")
    arguments = parser.parse_args()
    known = {name for group, names in TYPES.items() if group != "vision" or arguments.vision for name in names}
    if unknown := sorted(set(arguments.only or ()) - known):
        parser.error(f"no such types: {', '.join(unknown)}. Vision-language types need --vision.")
    if arguments.only and arguments.markdown:
        parser.error("--markdown writes tables of all types: leave --only out.")
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs} is out of range: give at least 1.")
    return arguments


def chosen(names: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """All names, or those of them that are asked for."""
    return [name for name in names if only is None or name in only]


def run(asked: dict[Group, list[str]], jobs: int, limit: float) -> list[Finding]:
    """All findings; each is told of on standard error as it comes."""
    types = [(name, group) for group, names in asked.items() for name in names]
    findings: list[Finding] = []
    for finding in examine_all(types, jobs=jobs, limit=limit):
        findings.append(finding)
        told = f"{finding.model_type}: {finding.verdict} {finding.runner or finding.reason}"
        print(f"[{len(findings)}/{len(types)}] {told} ({finding.seconds:.1f} s)", file=sys.stderr, flush=True)
    return findings


def print_group(group: Group, findings: Sequence[Finding]) -> None:
    """A table of a group's types, and how many there are of each verdict."""
    print(f"\n{TITLES[group]} ({len(findings)})")
    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for one in by_family(findings):
        table.add_row(family_of(one.model_type), one.model_type, one.verdict, one.runner, one.reason)
    Console(width=120).print(table)
    print(count(findings))


if __name__ == "__main__":
    main()
