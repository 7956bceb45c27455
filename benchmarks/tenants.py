"""Can a stranger tell by the time to the first token whether somebody has sent a prompt before?

    python benchmarks/tenants.py [--model smollm2-135m] [--repetitions 300] [--tokens 300]

A tenant asks about a document, and then somebody asks the same ("sent") or about a document of the same length that
nobody has sent ("new"): a requester of the tenant's own cache salt, and a stranger of another one. Their turns
alternate in a random order. The AUC is the probability that a prompt which was sent is answered sooner than one that is
new: 1 tells all, 0.5 nothing. Its interval is a 95% bootstrap interval over requests.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from texts import quiet, text_cutter
from timing import describe_machine, make_parser, print_table

from sda_engine import Sampling, SteeringEngine
from sda_engine.evaluation.measures import auc
from sda_engine.models.loading import _locate

TENANT, STRANGER = "the salt of a tenant", "the salt of a stranger"
REQUESTERS = {"of the same salt": TENANT, "of another salt": STRANGER}
FIRST = Sampling(max_new_tokens=1, temperature=0)
THINGS = ("maps", "letters", "coins", "bones", "lamps", "ropes", "chairs", "clocks", "jars", "keys", "nets", "oars")


@dataclass(frozen=True)
class Answered:
    """How long one request waited for its first token, seconds, and how many tokens of its prompt were reused."""

    seconds: float
    reused: int


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.set_defaults(repetitions=300)
    parser.add_argument("--tokens", type=int, default=300, help="of each document")
    arguments = parser.parse_args()
    quiet()
    cut = text_cutter(_locate(arguments.model))
    documents = (cut(text, arguments.tokens) for text in texts(arguments.tokens))
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        for salt in (TENANT, STRANGER):
            ask(engine, next(documents), salt)  # warm
        answered = measured(engine, documents, arguments.repetitions)
    print_table(
        f"Documents of {arguments.tokens} tokens, {arguments.repetitions} requests of each kind",
        ["requester", "sent, ms", "new, ms", "reused of sent", "AUC", "95% interval"],
        [row(name, answered[name, True], answered[name, False]) for name in REQUESTERS],
    )


def measured(
    engine: SteeringEngine, documents: Iterator[str], repetitions: int
) -> dict[tuple[str, bool], list[Answered]]:
    """What each requester waited for prompts that were sent before (True) and for new ones."""
    kinds = list(itertools.product(REQUESTERS, (True, False)))
    answered: dict[tuple[str, bool], list[Answered]] = {kind: [] for kind in kinds}
    order = np.random.default_rng(0)
    for _ in range(repetitions):
        for name, was_sent in (kinds[place] for place in order.permutation(len(kinds))):
            document = next(documents)
            ask(engine, document if was_sent else next(documents), TENANT)
            answered[name, was_sent].append(ask(engine, document, REQUESTERS[name]))
    return answered


def ask(engine: SteeringEngine, document: str, salt: str) -> Answered:
    """One request, timed from the call to its first token."""
    messages = [{"role": "user", "content": f"{document}\n\nWhat is kept there?"}]
    start = time.perf_counter()
    pieces = engine.stream(messages, sampling=FIRST, cache_salt=salt)
    next(pieces)
    seconds = time.perf_counter() - start
    (done,) = [piece.completion for piece in pieces if piece.completion is not None]
    return Answered(seconds, done.usage.cached_prompt_tokens)


def texts(tokens: int) -> Iterator[str]:
    """Ever new documents of more than so many tokens, of the same few words."""
    chosen = np.random.default_rng(1)
    for number in itertools.count():
        kept = " ".join(f"{chosen.integers(10, 100)} {thing}," for thing in chosen.choice(THINGS, tokens))
        yield f"Room {number} keeps {kept}"


def row(name: str, sent: list[Answered], new: list[Answered]) -> list[str]:
    """One line of the table."""
    speed = np.array([-one.seconds for one in (*sent, *new)])
    labels = np.array([1.0] * len(sent) + [0.0] * len(new))
    told = auc(speed, labels, [str(place) for place in range(len(speed))])
    assert told is not None, "there are requests of both kinds"
    interval = "-" if told.low is None or told.high is None else f"{told.low:.3f} to {told.high:.3f}"
    times = [f"{1000 * statistics.median(one.seconds for one in kind):.1f}" for kind in (sent, new)]
    return [name, *times, f"{statistics.median(one.reused for one in sent):.0f}", f"{told.value:.3f}", interval]


if __name__ == "__main__":
    main()
