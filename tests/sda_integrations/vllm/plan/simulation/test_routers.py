"""Routers: where a request goes."""

from collections import Counter

import pytest

from sda_integrations.vllm.plan.simulation.routers import LeastLoadedRouter, PrefixRouter, RandomRouter
from sda_integrations.vllm.plan.simulation.traffic import Request


def turn(conversation, prompt=100):
    return Request(0, conversation, prompt, 10)


def test_the_turns_of_a_conversation_stay_together():
    router = PrefixRouter(0)
    assert len({router.choose(turn(7, prompt), [0] * 8) for prompt in (100, 200, 300)}) == 1


def test_conversations_are_spread():
    router = PrefixRouter(0)
    counts = Counter(router.choose(turn(number), [0] * 8) for number in range(8000))
    assert len(counts) == 8
    assert min(counts.values()) > 800


def test_a_replica_with_much_more_than_its_share_is_passed_over():
    router = PrefixRouter(0)
    first = router.choose(turn(7), [0] * 8)
    loads = [4] * 8
    loads[first] = 5  # with this one 34 / 8 each; a quarter more is 6, rounded up
    assert router.choose(turn(7), loads) == first
    loads[first] = 9
    assert router.choose(turn(7), loads) != first


def test_a_new_replica_takes_its_share_and_moves_nothing_else():
    router = PrefixRouter(0)
    before = [router.choose(turn(number), [0] * 8) for number in range(4000)]
    after = [router.choose(turn(number), [0] * 9) for number in range(4000)]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {8}
    assert len(moved) == pytest.approx(4000 / 9, rel=0.2)


def test_the_least_loaded_is_chosen_and_among_equals_any():
    router = LeastLoadedRouter(0)
    assert {router.choose(turn(1), [3, 1, 1, 2]) for _ in range(50)} == {1, 2}


def test_a_random_router_knows_no_loads():
    router = RandomRouter(0)
    assert {router.choose(turn(1), [9, 0]) for _ in range(50)} == {0, 1}
