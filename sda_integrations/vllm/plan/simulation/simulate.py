"""The simulation: users, a router and replicas on one clock."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from sda_integrations.vllm.plan.simulation.replica import EngineShape, Replica, RowGroup
from sda_integrations.vllm.plan.simulation.routers import ROUTERS
from sda_integrations.vllm.plan.simulation.traffic import Request, Traffic, turns_of


@dataclass(frozen=True)
class Load:
    """How much is simulated.

    Attributes:
        replicas: behind the router.
        users: of each replica, on average.
        seconds: that are measured, after as many that are not.
        seed: the same one repeats the same figures.
    """

    replicas: int
    users: int
    seconds: float
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer that came within the measured time.

    Attributes:
        request: what was asked.
        replica: that answered, with all rows.
        waited: seconds to the first text.
        known: prompt tokens that the cache had.
    """

    request: Request
    replica: int
    waited: float
    known: int


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        tokens: of all answers, as they were decoded.
        answers: that were whole within the measured time.
        preempted: how often a group had to begin again, in all of the time.
    """

    seconds: float
    tokens: int = 0
    answers: list[Answer] = field(default_factory=list)
    preempted: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of all replicas."""
        return self.tokens / self.seconds

    @property
    def hit_rate(self) -> float:
        """Share of the tokens of base prompts that the cache had."""
        asked = sum(answer.request.prompt for answer in self.answers)
        return sum(answer.known for answer in self.answers) / asked if asked else 0.0


def simulate(shape: EngineShape, router_name: str, traffic: Traffic, load: Load) -> Outcome:
    """Run it; deterministic by the seed of the load."""
    router = ROUTERS[router_name](load.seed)
    replicas = [Replica(number, shape) for number in range(load.replicas)]
    users = [turns_of(user, traffic, load.seed) for user in range(load.replicas * load.users)]
    outcome = Outcome(load.seconds)
    events: list[tuple[float, int, Request | Replica]] = []
    order = count()  # of events at the same time: as they were made
    stepping = set[int]()

    def at(time: float, event: Request | Replica) -> None:
        heapq.heappush(events, (time, next(order), event))

    def ask(turns: Iterator[tuple[float, Request]], now: float) -> None:
        pause, request = next(turns)
        at(now + pause, request)

    for turns in users:
        ask(turns, 0.0)
    while events[0][0] < 2 * load.seconds:
        now, _, event = heapq.heappop(events)
        if isinstance(event, Request):
            replica = replicas[router.choose(event, [one.load for one in replicas])]
            replica.waiting.append(RowGroup(event, now))
        else:
            replica = event
            stepping.discard(replica.number)
            before = _decoded(replica)
            for group in (whole := replica.end_step(now)):
                ask(users[group.request.user], now)
            if now >= load.seconds:
                outcome.tokens += _decoded(replica) + sum(group.decoded for group in whole) - before
                outcome.answers += [_answer(group, replica) for group in whole]
        if replica.number not in stepping and (seconds := replica.begin_step()) is not None:
            stepping.add(replica.number)
            at(now + seconds, replica)
    outcome.preempted = sum(replica.preempted for replica in replicas)
    return outcome


def _decoded(replica: Replica) -> int:
    return sum(group.decoded for group in replica.running)


def _answer(group: RowGroup, replica: Replica) -> Answer:
    assert group.first_text is not None, "a whole answer has a first token"
    assert group.known is not None, "and was taken in"
    return Answer(group.request, replica.number, group.first_text - group.arrived, group.known)
