"""The figures of the page on vLLM on many machines, against what the code tells now."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sda_integrations.vllm.plan.gpus import GPUS
from sda_integrations.vllm.plan.models import PRESETS
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import Fit, make_plan
from sda_integrations.vllm.plan.simulation.replica import EngineShape
from sda_integrations.vllm.plan.simulation.simulate import Load
from sda_integrations.vllm.plan.simulation.step_times import fit_step_times, read_steps
from sda_integrations.vllm.plan.simulation.table import COLUMNS, table_rows
from sda_integrations.vllm.plan.simulation.traffic import Traffic

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs/how-to/vllm-scale.md").read_text("utf-8")


def rows(heading):
    """The cells of each line of the page's tables with such a heading."""
    found, inside = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if inside and line.startswith("|"):
            found.append(cells)
        else:
            inside = line.startswith("|") and cells == list(heading)
    assert found, heading
    return [cells for cells in found if set(cells) != {"---"}]


SIMULATED = rows(COLUMNS)
FITS = rows(
    [
        *("model", "GPUs", "GiB for keys and values, each", "plain", "2 rows", "3 rows"),
        *("plain, tokens/s", "2 rows, tokens/s", "kept"),
    ]
)
PACES = rows(["requests at once", "plain, tokens/s each", "2 rows, tokens/s each", "kept", "limit with 2 rows"])


def at_once(fit: Fit) -> str:
    return f"{fit.at_once:,}" + ("*" if fit.rows_decide else "")


@pytest.mark.parametrize("cells", FITS, ids=lambda cells: ", ".join(cells[:2]))
def test_what_fits_is_what_a_plan_says(cells):
    name, _, quantization = cells[0].partition(", ")
    count, gpu = cells[1].split(" x ")
    options = PlanOptions(gpu=gpu, tensor_parallel_size=int(count), quantization=quantization or None)
    two, three = (make_plan(PRESETS[name], replace(options, rows=number)) for number in (2, 3))
    plain, steered = two.most()
    assert cells[2:] == [
        f"{two.cache_memory / 2**30:.1f}",
        *(at_once(fit) for fit in (two.plain, two.steered, three.steered)),
        *(f"{plain:,.0f}", f"{steered:,.0f}", f"{steered / plain:.2f}"),
    ]


def test_the_bounds_are_what_a_plan_says():
    plan = make_plan(PRESETS["llama-3.1-8b"], PlanOptions(gpu="h100"))
    told = [
        [
            *(f"{pace.requests}", f"{1 / pace.plain.seconds:,.0f}", f"{1 / pace.steered.seconds:,.0f}"),
            *(f"{pace.kept:.2f}", pace.steered.limit),
        ]
        for pace in plan.paces
        if pace.plain is not None and pace.steered is not None
    ]
    assert told == PACES


def test_the_worked_example_is_what_a_plan_says():
    plan = make_plan(PRESETS["llama-3.1-8b"], PlanOptions(gpu="h100"))
    blocks = plan.steered.blocks
    assert f"The request takes {blocks.shared} + {blocks.tails[0]} + {blocks.tails[1]} = {blocks.total} blocks" in PAGE
    assert f"{blocks.total / plan.plain.blocks.total:.2f} times a plain one" in PAGE
    assert plan.steered.prompt_computed - plan.plain.prompt_computed == 48
    apart = make_plan(PRESETS["llama-3.1-8b"], PlanOptions(gpu="h100", common_tokens=0))
    assert f"(`--common-tokens 0`): {apart.steered.blocks.total} blocks" in PAGE
    assert (plan.cache.token_bytes, plan.cache.block_bytes) == (128 * 2**10, 2 * 2**20)
    mixtral = make_plan(PRESETS["mixtral-8x7b"], PlanOptions(gpu="h100", tensor_parallel_size=2))
    assert f"({mixtral.paces[0].kept:.2f} for Mixtral 8x7B" in PAGE


def test_the_page_names_every_gpu():
    named = re.search(r"`--gpu` is one of ([^;]+), or", PAGE.replace("\n", " "))
    assert named is not None
    assert set(re.split(", | and ", named[1])) == set(GPUS)


def test_the_page_has_the_plans_defaults():
    options = PlanOptions()
    assert f"share of the memory ({options.gpu_memory_utilization})" in PAGE
    assert f"less {options.overhead:g} GiB for" in PAGE


def test_the_simulation_repeats_the_pages_figures():
    """Of 1 and of 8 replicas; 64 take longer than a test may."""
    times = fit_step_times(read_steps(ROOT / "benchmarks/vllm_steps.json").samples)
    shape = EngineShape(times, blocks=2000, rows=2)
    found = [row for count in (1, 8) for row in table_rows(shape, Traffic(), Load(count, 16, 300))]
    assert found == SIMULATED[: len(found)]
