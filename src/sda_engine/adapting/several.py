"""Several answers to one chat, decoded at once."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sda_engine.request_settings import RequestSettings

Result = TypeVar("Result")

_SEEDS = 2**63


def settings_of_each(settings: RequestSettings, answers: int) -> list[RequestSettings]:
    """The settings of several answers to one chat. With a seed the second has seed + 1, and so on, or all were alike.

    Args:
        settings: what was asked for.
        answers: how many.
    """
    seed = settings.sampling.seed
    if seed is None:
        return [settings] * answers
    seeds = [(seed + place) % _SEEDS for place in range(answers)]
    return [replace(settings, sampling=settings.sampling.replace(seed=one)) for one in seeds]


async def all_or_first_failure(several: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results; the first failure cancels the others, and is raised as it is. So does cancelling the caller.

    Nothing of them runs any more when this returns or raises.
    """
    tasks = [asyncio.ensure_future(one) for one in several]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
