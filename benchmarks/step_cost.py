"""What a pass costs beside the model: steering, drawing and writing down the next token of every request in it.

    python benchmarks/step_cost.py [--repetitions 5] [--requests 1 8 32] [--vocabulary 49152 151936]

Requests of two rows with random logits, the published settings, the trace on, as always. Milliseconds of processor time
per pass, so that other work on the machine does not count.
"""

import statistics
import time
from collections.abc import Sequence

import torch
from texts import quiet
from timing import describe_machine, make_parser, print_table
from torch import Tensor

from sda_engine import Sampling, Steering
from sda_engine.decoding.row_group import DecodeSettings, RowGroup
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.wanted import Chosen
from sda_engine.prompts import BASE, INSTRUCTED
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens import SafeTokenizer

SAMPLINGS = {"greedy": Sampling(temperature=0), "T 0.6, top-p 0.95": Sampling(temperature=0.6, top_p=0.95, seed=1)}
STRENGTH = 0.924  # gain 2, score 50
PASSES = 10


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[49152, 151936])
    arguments = parser.parse_args()
    quiet()
    print(describe_machine(torch.float32))
    rows = []
    for vocabulary in arguments.vocabulary:
        for name, sampling in SAMPLINGS.items():
            for requests in arguments.requests:
                measured = [milliseconds(requests, vocabulary, sampling) for _ in range(arguments.repetitions)]
                median = statistics.median(measured)
                rows.append([name, f"{vocabulary:,}", str(requests), f"{median:.2f}", f"{median / requests:.2f}"])
    print_table(
        f"One step of all requests, medians of {arguments.repetitions}",
        ["", "vocabulary", "requests", "ms per pass", "ms per token"],
        rows,
    )


@torch.inference_mode()
def milliseconds(requests: int, vocabulary: int, sampling: Sampling) -> float:
    """Of processor time per pass, over PASSES passes after two that warm up."""
    groups = [make_group(sampling) for _ in range(requests)]
    generator = torch.Generator().manual_seed(0)
    base = 4 * torch.randn((requests, 1, vocabulary), generator=generator)
    instructed = base + 1.5 * torch.randn((requests, 1, vocabulary), generator=generator)
    logits = torch.cat([base, instructed], dim=1)  # (requests, rows, vocab)
    start = 0.0
    for number in range(PASSES + 2):
        if number == 2:
            start = time.process_time()
        step(groups, logits)
    return 1000 * (time.process_time() - start) / PASSES


def make_group(sampling: Sampling) -> RowGroup:
    """One request, which no token ends."""
    settings = DecodeSettings(
        rows=(BASE, INSTRUCTED),
        strength=STRENGTH,
        avoid_strength=0.0,
        steering=Steering(),
        sampling=sampling,
        stop=(),
        max_new_tokens=10**6,
        eos_token_ids=frozenset(),
    )
    return RowGroup(settings, SafeTokenizer(tiny_tokenizer()))


def step(groups: Sequence[RowGroup], logits: Tensor) -> None:
    """The next token of every group, as the running batch lets them choose it."""
    choosing = [group.advance(list(rows)) for group, rows in zip(groups, logits, strict=True)]
    wanted = [next(one)[0] for one in choosing]
    for one, chosen in zip(choosing, choose(wanted), strict=True):
        if not isinstance(chosen, Chosen):
            raise chosen
        try:
            one.send([chosen])
        except StopIteration:
            continue
        raise AssertionError("one step is enough where nothing ends the answer")


if __name__ == "__main__":
    main()
