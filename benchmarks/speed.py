"""Speed and memory of steered decoding beside its peers: one command, one table.

    python benchmarks/speed.py [--model smollm2-135m] [--dtype auto] [--repetitions 5] [--new-tokens 64]
                               [--only CASE] [--no-memory] [--save FILE.json] [--plot FILE.svg]

Peers are transformers' `generate` (plain, with guidance_scale, with prompt lookup), two separate forward passes per
token, ChatHuggingFace and HuggingFaceLLM. All have the same weights in the same dtype, decode greedily, and decode as
many tokens as ours did just before; where answers of ours end early, the figures are per token. The contenders of a
case take turns, so that drift hits all alike; figures are medians after one warm-up, and the ratios are what to
compare. Every run has prompts that nobody has seen (cases.py), but for the thirty tokens or so that the chat template
puts first. Only the second question of the first-token case and the turns of the agent loop repeat what came before.

Steered answers have the strength 1, which is guidance_scale=2. `generate`, ChatHuggingFace and HuggingFaceLLM answer
from the base context alone, unsteered. They have no end-of-sequence token, so they decode on behind the answer.
Memory is measured first, each row in a process of its own (memory.py). A peer that is not installed is left out.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cases import CASES
from contenders import Contender, Request, Sample, Source, build
from memory import measure_peak
from ours import check_prompts
from plot_speed import plot
from results import COLUMNS, Result, save, table_rows
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from texts import quiet, text_cutter
from timing import describe_machine, make_parser, print_table

from sda_engine.models.devices import resolve_device, resolve_dtype
from sda_engine.models.loading import _locate

_PACKAGES = ("langchain-core", "langchain-huggingface", "llama-index-core", "llama-index-llms-huggingface")
_stderr = Console(stderr=True)


def main() -> None:
    """Measure and print."""
    arguments = parse()
    quiet()
    dtype = resolve_dtype(arguments.dtype, resolve_device("auto"))
    source = Source(_locate(arguments.model), str(dtype).removeprefix("torch."))
    machine = f"{describe_machine(dtype)}\n{package_versions()}"
    print(machine, flush=True)
    results: list[Result] = []
    marks = (f"{number:04d}" for number in itertools.count(1))
    names = arguments.only or list(CASES)
    for request in (request for name in names for request in CASES[name].requests("0000", text_cutter(source.folder))):
        check_prompts(source, request)
    for name in names:
        results += measure_case(name, source, marks, arguments)
        if arguments.save:  # after each case: an hour is long
            save(arguments.save, machine, results)
    title = f"Greedy, at most {arguments.new_tokens} new tokens, medians of {arguments.repetitions}"
    print_table(title, COLUMNS, table_rows(results), texts=2)
    if arguments.plot:
        plot(results, arguments.plot)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--new-tokens", type=int, default=64, help="of each answer, at most")
    parser.add_argument("--only", action="append", choices=tuple(CASES), help="this case; may be given several times")
    parser.add_argument("--no-memory", action="store_true", help="measure no memory, which takes half as long")
    parser.add_argument("--save", type=Path, help="keep the figures, for plot_speed.py")
    parser.add_argument("--plot", type=Path, help="draw them as well")
    return parser.parse_args()


def measure_case(name: str, source: Source, marks: Iterator[str], arguments: argparse.Namespace) -> list[Result]:
    """Memory and time of all contenders of a case."""
    case, cut = CASES[name], text_cutter(source.folder)
    new_tokens = min(case.most_tokens, arguments.new_tokens)
    contenders = build_all((case.ours, *case.contenders), source)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_stderr) as progress:
        peaks: dict[str, float | None] = {}
        if not arguments.no_memory:
            for contender in progress.track(contenders, description=f"{case.title}: memory"):
                peaks[contender] = measure_peak(name, contender, source, new_tokens)
        rounds = progress.track(range(arguments.repetitions + 1), description=f"{case.title}: time")
        taken = [take_turns(contenders, lambda: case.requests(next(marks), cut), new_tokens) for _ in rounds]
    return [
        Result(
            case=case.title,
            contender=contender,
            is_ours=contender == case.ours,
            is_plain=contender == case.plain,
            first_token=case.first_token,
            samples=tuple(samples[contender] for samples in taken[1:]),  # the first round warms up
            peak=peaks.get(contender),
        )
        for contender in contenders
    ]


def build_all(names: Sequence[str], source: Source) -> dict[str, Contender]:
    """The contenders whose packages are installed, in this order."""
    contenders = {}
    for name in names:
        try:
            contenders[name] = build(name, source)
        except ImportError as error:
            _stderr.print(f"{name} is left out: {error}")
    return contenders


def take_turns(
    contenders: Mapping[str, Contender], make_requests: Callable[[], Sequence[Request]], new_tokens: int
) -> dict[str, Sample]:
    """One run of each contender, each with requests of its own; the first one, ours, decides how many tokens."""
    samples: dict[str, Sample] = {}
    tokens: Sequence[int] = ()
    for name, contender in contenders.items():
        requests = make_requests()
        samples[name] = contender(requests, tokens or [new_tokens] * len(requests))
        tokens = tokens or samples[name].tokens
    return samples


def package_versions() -> str:
    """The frameworks' versions, in one line."""
    return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
