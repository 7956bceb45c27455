"""What all benchmarks share: the machine in words, medians in one interleaved run, one table."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import transformers
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender over all repetitions."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, seconds."""
        return statistics.median(self.seconds)


def measure(contenders: Mapping[str, Callable[[], object]], repetitions: int = 5) -> dict[str, Timing]:
    """Run the contenders in turn, `repetitions` times each after one warm-up, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if repetition > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that speed benchmarks share: which model, and how many repetitions."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="an alias, a local folder or GGUF file, or a Hub id")
    parser.add_argument("--repetitions", type=int, default=5, help="after one warm-up")
    return parser


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The shared options alone."""
    return make_parser(description).parse_args()


def describe_machine(dtype: object) -> str:
    """Processor, threads, versions and dtype in one line."""
    capabilities = torch.cpu.get_capabilities()
    return (
        f"{capabilities.get('cpu_name', platform.processor())}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, {str(dtype).removeprefix('torch.')}"
    )


def print_table(title: str, columns: list[str], rows: list[list[str]], *, texts: int = 1) -> None:
    """One table on standard output, whose first columns are `texts` and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < texts else "right", no_wrap=place < texts)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
