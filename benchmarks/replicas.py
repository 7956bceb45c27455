"""What does steering cost many replicas, and what does a router give back that knows prefixes?

    python benchmarks/replicas.py [--steps FILE.json] [--replicas 1 8 64] [--users 16] [--seconds 300]
    python benchmarks/replicas.py --bound llama-3.1-8b --gpu h100 --replicas 1 8 --users 128 --seconds 60 --opening 3000

A simulation on measured step times: the file holds {"source": "...", "samples": [{"rows", "prefill_tokens",
"kv_tokens", "seconds"}, ...]}. Users ask in turns and think in between; the same users ask plainly and steered, through
each router. Measured after as many seconds that are not. The same seed repeats the table. With --bound there are no
measured steps: a step takes what the data sheet of a GPU allows, and blocks are as many as fit on it.
"""

import argparse
from pathlib import Path

from timing import print_table

from sda_integrations.vllm.plan.models import PRESETS
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import make_plan
from sda_integrations.vllm.plan.simulation.replica import EngineShape
from sda_integrations.vllm.plan.simulation.simulate import Load
from sda_integrations.vllm.plan.simulation.step_times import StepTimes, fit_step_times, read_steps
from sda_integrations.vllm.plan.simulation.table import COLUMNS, table_rows
from sda_integrations.vllm.plan.simulation.traffic import Traffic
from sda_integrations.vllm.plan.speed import step_costs

STEPS = Path(__file__).parent / "vllm_steps.json"


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=Path, default=STEPS, help="measured steps")
    parser.add_argument("--bound", metavar="MODEL", help="a dense model's bounds in place of measured steps")
    parser.add_argument("--gpu", default="h100", help="of the bounds")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--users", type=int, default=16, help="of each replica")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--blocks", type=int, default=2000, help="of keys and values in each replica")
    parser.add_argument("--opening", type=int, default=600, help="tokens that a conversation begins with")
    parser.add_argument("--rows", type=int, default=2, help="of a steered request")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source, shape = bound(arguments) if arguments.bound else measured(arguments)
    times, traffic = shape.times, Traffic(opening=arguments.opening)
    print(
        f"{source}\nA step: {1000 * times.base:.4g} ms, {1e6 * times.row:.4g} us a row, "
        f"{1e6 * times.prefill_token:.4g} us a prompt token, {1e6 * times.kv_token:.4g} us a cached token\n{traffic}"
    )
    rows = [
        row
        for replicas in arguments.replicas
        for row in table_rows(shape, traffic, Load(replicas, arguments.users, arguments.seconds, arguments.seed))
    ]
    title = f"{arguments.users} users a replica, {shape.blocks} blocks, {arguments.seconds:g} s, seed {arguments.seed}"
    print_table(title, list(COLUMNS), rows)


def measured(arguments: argparse.Namespace) -> tuple[str, EngineShape]:
    """An engine whose steps were measured."""
    steps = read_steps(arguments.steps)
    return steps.source, EngineShape(fit_step_times(steps.samples), blocks=arguments.blocks, rows=arguments.rows)


def bound(arguments: argparse.Namespace) -> tuple[str, EngineShape]:
    """An engine that is as fast as a GPU could be, were its parts busy one after the other."""
    plan = make_plan(PRESETS[arguments.bound], PlanOptions(gpu=arguments.gpu))
    costs = step_costs(plan.deployment)
    times = StepTimes(costs.weights, costs.token, costs.token, costs.cached_token)
    shape = EngineShape(times, plan.blocks, max_rows=1024, max_tokens=8192, rows=arguments.rows)
    return f"Bounds of {arguments.bound} on one {arguments.gpu}, not measured", shape


if __name__ == "__main__":
    main()
