"""Which replica gets a request. A request is all of its rows: no router can part them."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import ceil
from random import Random
from types import MappingProxyType
from typing import Protocol

from sda_integrations.vllm.plan.simulation.traffic import Request

_ROOM = 1.25  # a replica is full for a new prefix when it has so many times the mean load


class Router(Protocol):
    """Chooses a replica."""

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """The number of a replica, given how many requests each has."""
        ...


class RandomRouter:
    """Any replica."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - a simulation

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """See `Router`."""
        return self._random.randrange(len(loads))


class LeastLoadedRouter:
    """A replica with the fewest requests."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - a simulation

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """See `Router`."""
        least = min(loads)
        return self._random.choice([number for number, load in enumerate(loads) if load == least])


class PrefixRouter:
    """The replica that a conversation hashes to, or the next in its order, where that has much more than its share.

    Rendezvous hashing with bounded loads: the order of the replicas is the conversation's own, and stays where replicas
    come and go.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """See `Router`."""
        most = ceil(_ROOM * (sum(loads) + 1) / len(loads))
        order = sorted(range(len(loads)), key=lambda number: self._hash(request.conversation, number))
        return next(number for number in order if loads[number] < most)

    def _hash(self, conversation: int, replica: int) -> bytes:
        return blake2b(f"{self._seed} {conversation} {replica}".encode(), digest_size=8).digest()


ROUTERS: Mapping[str, type[RandomRouter] | type[LeastLoadedRouter] | type[PrefixRouter]] = MappingProxyType(
    {"random": RandomRouter, "least loaded": LeastLoadedRouter, "by prefix": PrefixRouter}
)
