"""What does steering cost many replicas, and what does a router give back that knows prefixes?

    python benchmarks/replicas.py [--steps FILE.json] [--replicas 1 8 64] [--users 16] [--seconds 300]

A simulation on measured step times: the file holds {"source": "...", "samples": [{"rows", "prefill_tokens",
"kv_tokens", "seconds"}, ...]}. Users ask in turns and think in between; the same users ask plainly and steered, through
each router. Measured after as many seconds that are not. The same seed repeats the table.
"""

import argparse
from pathlib import Path

from timing import print_table

from sda_integrations.vllm.plan.simulation.replica import EngineShape
from sda_integrations.vllm.plan.simulation.simulate import Load
from sda_integrations.vllm.plan.simulation.step_times import fit_step_times, read_steps
from sda_integrations.vllm.plan.simulation.table import COLUMNS, table_rows
from sda_integrations.vllm.plan.simulation.traffic import Traffic

STEPS = Path(__file__).parent / "vllm_steps.json"


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=Path, default=STEPS, help="measured steps")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--users", type=int, default=16, help="of each replica")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--blocks", type=int, default=2000, help="of keys and values in each replica")
    parser.add_argument("--rows", type=int, default=2, help="of a steered request")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    measured = read_steps(arguments.steps)
    times = fit_step_times(measured.samples)
    shape = EngineShape(times, blocks=arguments.blocks, rows=arguments.rows)
    traffic = Traffic()
    print(measured.source)
    print(
        f"A step: {1000 * times.base:.4g} ms, {1000 * times.row:.4g} ms a row, {1e6 * times.prefill_token:.4g} us a "
        f"prompt token, {1e9 * times.kv_token:.4g} ns a cached token. {traffic}"
    )
    rows = [
        row
        for replicas in arguments.replicas
        for row in table_rows(shape, traffic, Load(replicas, arguments.users, arguments.seconds, arguments.seed))
    ]
    title = (
        f"{arguments.users} users a replica, {arguments.blocks} blocks, {arguments.seconds:g} s, seed {arguments.seed}"
    )
    print_table(title, list(COLUMNS), rows)


if __name__ == "__main__":
    main()
