"""A plan as tables for people, and as plain JSON."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sda_engine.cli.terminal import figures_table
from sda_integrations.vllm.plan.gpus import GIB
from sda_integrations.vllm.plan.planning import Fit, Pace, Plan
from sda_integrations.vllm.plan.speed import Step

_BOUND = (
    "Bounds: weights and each row's keys and values are read once a step, or all is multiplied, whichever takes "
    "longer; real steps are slower. Kept: steered tokens per second as a share of plain ones."
)


def plan_view(plan: Plan) -> Group:
    """Three tables: memory, requests, speed."""
    return Group(_memory(plan), _requests(plan), _paces(plan), Text(f"{_at_most(plan)} {_BOUND}", style="dim"))


def _memory(plan: Plan) -> Table:
    deployment = plan.deployment
    gpu, sizes = deployment.gpu, deployment.sizes
    replicas = f"{plan.engines} engines, each on " if plan.engines > 1 else ""
    table = figures_table(f"{sizes.name} on {replicas}{deployment.gpus} x {gpu.name}: each GPU")
    table.add_column("")
    table.add_column("GiB", justify="right")
    for name, size in (
        ("memory", gpu.memory),
        ("that vLLM may use", plan.budget),
        ("weights", deployment.weights),
        ("activations, graphs, libraries (assumed)", plan.overhead),
        ("keys and values", plan.cache_memory),
    ):
        table.add_row(name, f"{size / GIB:.2f}")
    table.caption_justify = "left"
    table.caption = (
        f"{plan.cache.token_bytes / 1024:g} KiB for each token\n{plan.blocks:,} blocks of {plan.cache.block_size} "
        f"tokens, {plan.cache.block_bytes / 1024:g} KiB each"
    )
    return table


def _requests(plan: Plan) -> Table:
    asked = plan.steered.request
    table = figures_table(
        f"A request: prompt {asked.prompt:,}, instruction {asked.instruction:,}, answer {asked.answer:,} tokens"
    )
    for column in ("", "prompt computed", "blocks shared", "blocks of each row", "blocks", "of plain", "at once"):
        table.add_column(column, justify="right" if column else "left")
    for name, fit in (("plain", plan.plain), (f"steered, {asked.rows} rows", plan.steered)):
        table.add_row(
            name,
            f"{fit.prompt_computed:,}",
            f"{fit.blocks.shared:,}",
            " + ".join(f"{tail:,}" for tail in fit.blocks.tails),
            f"{fit.blocks.total:,}",
            f"{fit.blocks.total / plan.plain.blocks.total:.2f}",
            f"{fit.at_once * plan.engines:,}" + (" (--max-num-seqs)" if fit.rows_decide else ""),
        )
    return table


def _paces(plan: Plan) -> Table:
    each = " in each engine" if plan.engines > 1 else ""
    table = figures_table(f"At most so many tokens per second, by requests at once{each}")
    for column in ("requests", "plain, each", "all", "limit", "steered, each", "all", "limit", "kept"):
        table.add_column(column, justify="left" if column == "limit" else "right")
    for pace in plan.paces:
        kept = "-" if pace.kept is None else f"{pace.kept:.2f}"
        table.add_row(f"{pace.requests:,}", *_rates(pace, pace.plain, plan), *_rates(pace, pace.steered, plan), kept)
    return table


def _at_most(plan: Plan) -> str:
    plain, steered = plan.most()
    return (
        f"With as many requests as fit at once: {steered:,.0f} tokens per second steered, {plain:,.0f} plain "
        f"({steered / plain:.2f})."
    )


def _rates(pace: Pace, step: Step | None, plan: Plan) -> tuple[str, str, str]:
    if step is None:
        return ("-", "-", "does not fit")
    rate = 1 / step.seconds
    return (f"{rate:,.0f}", f"{rate * pace.requests * plan.engines:,.0f}", step.limit)


def plan_json(plan: Plan) -> dict[str, object]:
    """The same as plain JSON; memory in bytes, times in seconds."""
    deployment = plan.deployment
    return {
        "model": deployment.sizes.name,
        "gpu": deployment.gpu.name,
        "tensor_parallel_size": deployment.gpus,
        "data_parallel_size": plan.engines,
        "per_gpu": {
            "memory": deployment.gpu.memory,
            "usable": round(plan.budget),
            "weights": round(deployment.weights),
            "overhead": round(plan.overhead),
            "keys_and_values": round(plan.cache_memory),
            "bytes_per_token": plan.cache.token_bytes,
            "block_size": plan.cache.block_size,
            "bytes_per_block": plan.cache.block_bytes,
            "blocks": plan.blocks,
        },
        "plain": _fit_json(plan.plain),
        "steered": _fit_json(plan.steered),
        "most_tokens_per_second": dict(zip(("plain", "steered"), plan.most(), strict=True)),
        "bounds": [_pace_json(pace, plan) for pace in plan.paces],
    }


def _fit_json(fit: Fit) -> dict[str, object]:
    return {
        "rows": fit.request.rows,
        "row_tokens": fit.request.lengths(),
        "prompt_tokens_computed": fit.prompt_computed,
        "shared_blocks": fit.blocks.shared,
        "row_blocks": list(fit.blocks.tails),
        "blocks": fit.blocks.total,
        "at_once_per_engine": fit.at_once,
        "limited_by": "rows" if fit.rows_decide else "memory",
    }


def _pace_json(pace: Pace, plan: Plan) -> dict[str, object]:
    told: dict[str, object] = {"requests_per_engine": pace.requests, "kept": pace.kept}
    for name, step in (("plain", pace.plain), ("steered", pace.steered)):
        told[name] = step and {
            "step_seconds": step.seconds,
            "tokens_per_second_each": 1 / step.seconds,
            "tokens_per_second": pace.requests * plan.engines / step.seconds,
            "limit": step.limit,
        }
    return told
