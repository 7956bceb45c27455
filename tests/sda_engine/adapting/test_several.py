"""Several answers to one chat: seeds that count on, and one end for all."""

import asyncio

import pytest

from sda_engine import Sampling
from sda_engine.adapting import all_or_first_failure, settings_of_each
from sda_engine.request_settings import RequestSettings


@pytest.mark.parametrize(("seed", "wanted"), [(None, [None, None]), (7, [7, 8]), (2**63 - 1, [2**63 - 1, 0])])
def test_seeds_count_on_and_begin_again_at_the_end(seed, wanted):
    each = settings_of_each(RequestSettings(sampling=Sampling(seed=seed, top_k=5)), 2)
    assert [one.sampling.seed for one in each] == wanted
    assert {one.sampling.top_k for one in each} == {5}


async def test_results_come_in_the_order_of_what_was_asked():
    async def give(value, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return value

    assert await all_or_first_failure([give("a", 3), give("b", 0)]) == ["a", "b"]


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_failure_and_a_cancellation_end_all(cancel):
    ended = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        if not cancel:
            raise ValueError("wrong")
        all_of_them.cancel()

    all_of_them = asyncio.ensure_future(all_or_first_failure([wait(), fail(), wait()]))
    with pytest.raises(asyncio.CancelledError if cancel else ValueError):
        await all_of_them
    assert ended == [True, True]
