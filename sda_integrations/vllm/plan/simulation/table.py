"""The table of a simulation."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sda_integrations.vllm.plan.simulation.replica import EngineShape
from sda_integrations.vllm.plan.simulation.routers import ROUTERS
from sda_integrations.vllm.plan.simulation.simulate import Load, Outcome, simulate
from sda_integrations.vllm.plan.simulation.traffic import Traffic

COLUMNS = ("replicas, router", "rows", "tokens/s", "of plain", "first text p50, s", "p95, s", "prefix hits")


def table_rows(shape: EngineShape, traffic: Traffic, load: Load) -> Iterator[list[str]]:
    """Two lines for each router: a plain request, and one of the shape's rows."""
    for router in ROUTERS if load.replicas > 1 else list(ROUTERS)[:1]:
        name = f"{load.replicas}, {router}" if load.replicas > 1 else f"{load.replicas}"
        plain = simulate(replace(shape, rows=1), router, traffic, load)
        steered = simulate(shape, router, traffic, load)
        for rows, outcome in ((1, plain), (shape.rows, steered)):
            yield [name, str(rows), *_figures(outcome, plain)]


def _figures(outcome: Outcome, plain: Outcome) -> list[str]:
    waits = sorted(answer.waited for answer in outcome.answers)
    return [
        f"{outcome.tokens_per_second:,.0f}",
        f"{outcome.tokens_per_second / plain.tokens_per_second:.2f}",
        f"{statistics.median(waits):.2f}",
        f"{_percentile(waits, 95):.2f}",
        f"{outcome.hit_rate:.2f}",
    ]


def _percentile(values: Sequence[float], percent: int) -> float:
    """Of sorted values, the least one that so many percent do not exceed."""
    return values[-(-percent * len(values) // 100) - 1]
