"""The calculation: how much of a model and of its requests fits on GPUs, and how fast it can be."""

from dataclasses import dataclass, replace

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.cache import CacheShape, cache_shape
from sda_integrations.vllm.plan.gpus import GIB, find_gpu
from sda_integrations.vllm.plan.models import ModelSizes
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.precision import cache_bytes, dtype_bytes, weight_bytes
from sda_integrations.vllm.plan.requests import (
    TEMPLATE_TOKENS,
    RequestBlocks,
    RequestShape,
    prompt_tokens_computed,
    request_blocks,
)
from sda_integrations.vllm.plan.speed import Deployment, Step, least_step

BATCHES = (1, 8, 32, 128, 512)
_MOST_GPUS = 64  # that a remedy proposes


@dataclass(frozen=True)
class Fit:
    """How many requests of a kind one engine holds.

    Attributes:
        request: one of them.
        blocks: that it takes at its full length.
        prompt_computed: tokens of its prompts that are computed, where the cache held none of them before.
        at_once: as many fit at full length.
        rows_decide: whether vLLM's limit of rows decides, rather than memory.
    """

    request: RequestShape
    blocks: RequestBlocks
    prompt_computed: int
    at_once: int
    rows_decide: bool


@dataclass(frozen=True)
class Pace:
    """Bounds with so many requests at once in one engine, plain ones and steered ones; None where they do not fit."""

    requests: int
    plain: Step | None
    steered: Step | None

    @property
    def kept(self) -> float | None:
        """Steered tokens per second as a share of plain ones."""
        return None if self.plain is None or self.steered is None else self.plain.seconds / self.steered.seconds


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        deployment: the model and the GPUs of one engine.
        engines: of them (the data parallel size).
        budget: bytes of each GPU that vLLM may use.
        overhead: bytes of these that were set aside.
        cache_memory: bytes of these that are left for keys and values.
        cache: how keys and values are stored.
        blocks: of them that requests may take.
        plain: a request without steering.
        steered: a request with it.
        paces: bounds by the number of requests at once.
    """

    deployment: Deployment
    engines: int
    budget: float
    overhead: float
    cache_memory: float
    cache: CacheShape
    blocks: int
    plain: Fit
    steered: Fit
    paces: tuple[Pace, ...]

    def most(self) -> tuple[float, float]:
        """Tokens per second of all engines with as many plain, and as many steered requests as fit at once."""

        def rate(fit: Fit) -> float:
            lengths = fit.request.mean_lengths() * fit.at_once
            return self.engines * fit.at_once / least_step(self.deployment, lengths).seconds

        return rate(self.plain), rate(self.steered)


def make_plan(sizes: ModelSizes, options: PlanOptions) -> Plan:
    """Plan for a model.

    Raises:
        ConfigError: an option is out of range, or the model does not fit; the message says what would.
    """
    deployment = _deployment(sizes, options)
    request = _request(sizes, options)
    overhead = options.overhead * GIB
    budget = deployment.gpu.memory * options.gpu_memory_utilization
    shape = cache_shape(sizes, deployment.cache_bytes, deployment.gpus, options.block_size)
    left = budget - deployment.weights - overhead
    blocks = int(left // shape.block_bytes) - 1  # vLLM keeps one block back, which stands for none
    if blocks < request_blocks(shape, request).total:
        raise ConfigError(_too_large(deployment, options, request))
    most_rows = options.max_num_seqs or deployment.gpu.rows
    plain, steered = (_fit(shape, one, blocks, most_rows) for one in (replace(request, rows=1), request))
    return Plan(
        deployment=deployment,
        engines=options.data_parallel_size,
        budget=budget,
        overhead=overhead,
        cache_memory=left,
        cache=shape,
        blocks=blocks,
        plain=plain,
        steered=steered,
        paces=tuple(_pace(deployment, plain, steered, number) for number in _numbers(plain, steered)),
    )


def _deployment(sizes: ModelSizes, options: PlanOptions) -> Deployment:
    _check(options)
    if sizes.experts is not None and options.data_parallel_size > 1:
        raise ConfigError(
            f"--data-parallel-size is {options.data_parallel_size}: vLLM spreads the experts of {sizes.name} over all "
            f"of its engines, which a plan does not count. Plan one engine, without the option."
        )
    _check_heads(sizes, options.tensor_parallel_size)
    return Deployment(
        sizes=sizes,
        gpu=find_gpu(options.gpu, options.gpu_memory, options.bandwidth),
        gpus=options.tensor_parallel_size,
        plain_bytes=dtype_bytes(options.dtype),
        weight_bytes=weight_bytes(sizes, options.dtype, options.quantization, options.weight_bytes),
        cache_bytes=cache_bytes(options.kv_cache_dtype, options.dtype),
    )


def _check(options: PlanOptions) -> None:
    if options.pipeline_parallel_size != 1:
        raise ConfigError(
            f"--pipeline-parallel-size is {options.pipeline_parallel_size}: groups of rows run with 1 alone. Share the "
            f"layers over more GPUs by --tensor-parallel-size."
        )
    for name, number in (
        ("--tensor-parallel-size", options.tensor_parallel_size),
        ("--data-parallel-size", options.data_parallel_size),
        ("--block-size", options.block_size),
        ("--max-num-seqs", options.max_num_seqs),
    ):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}: it must be at least 1.")
    if not 0 < options.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"--gpu-memory-utilization is {options.gpu_memory_utilization:g}: it must be above 0 and at most 1."
        )
    if not 0 <= options.overhead < float("inf"):
        raise ConfigError(f"--overhead is {options.overhead:g}: it must be 0 GiB or more.")
    if options.max_num_seqs is not None and options.max_num_seqs < options.rows:
        raise ConfigError(
            f"--max-num-seqs is {options.max_num_seqs}, and one request has {options.rows} rows, which run together: "
            f"it must be at least {options.rows}."
        )


def _check_heads(sizes: ModelSizes, gpus: int) -> None:
    if not _divides(sizes, gpus):
        legal = [str(count) for count in range(1, _MOST_GPUS + 1) if _divides(sizes, count)]
        raise ConfigError(
            f"--tensor-parallel-size is {gpus}: {sizes.name} has {sizes.query_heads} heads, {sizes.kv_heads} of keys, "
            f"which can be shared by {', '.join(legal)} GPUs."
        )


def _divides(sizes: ModelSizes, gpus: int) -> bool:
    """Whether vLLM can share the heads of a layer: all in equal parts, those of keys in equal parts or in copies."""
    keys = 1 if sizes.latent else sizes.kv_heads
    return sizes.query_heads % gpus == 0 and (keys % gpus == 0 or gpus % keys == 0)


def _request(sizes: ModelSizes, options: PlanOptions) -> RequestShape:
    common = options.common_tokens
    if common is None:
        common = max(0, options.prompt_tokens - TEMPLATE_TOKENS)
    if common > options.prompt_tokens:
        raise ConfigError(
            f"--common-tokens is {common}: it must be at most the prompt's {options.prompt_tokens} tokens."
        )
    request = RequestShape(
        options.prompt_tokens, options.instruction_tokens, options.answer_tokens, options.rows, common
    )
    longest = max(request.lengths())
    if longest > sizes.context:
        raise ConfigError(
            f"The longest row has {longest} tokens, and the context window of {sizes.name} has {sizes.context}. Make "
            f"--prompt-tokens, --instruction-tokens or --answer-tokens smaller by {longest - sizes.context} together."
        )
    return request


def _fit(shape: CacheShape, request: RequestShape, blocks: int, most_rows: int) -> Fit:
    needed = request_blocks(shape, request)
    by_memory, by_rows = blocks // needed.total, most_rows // request.rows
    computed = prompt_tokens_computed(shape.block_size, request)
    return Fit(request, needed, computed, min(by_memory, by_rows), rows_decide=by_rows < by_memory)


def _numbers(plain: Fit, steered: Fit) -> list[int]:
    """Numbers of requests at once that are worth a look: some that fit, and as many as do."""
    most = {plain.at_once, steered.at_once}
    return sorted({number for number in BATCHES if number < max(most)} | most)


def _pace(deployment: Deployment, plain: Fit, steered: Fit, requests: int) -> Pace:
    def step(fit: Fit) -> Step | None:
        return least_step(deployment, fit.request.mean_lengths() * requests) if requests <= fit.at_once else None

    return Pace(requests, step(plain), step(steered))


def _too_large(deployment: Deployment, options: PlanOptions, request: RequestShape) -> str:
    """Why a plan is none, and what would be one."""
    sizes, gpu = deployment.sizes, deployment.gpu
    shape = cache_shape(sizes, deployment.cache_bytes, deployment.gpus, options.block_size)
    needed = (request_blocks(shape, request).total + 1) * shape.block_bytes
    enough = next(
        (
            count
            for count in range(deployment.gpus + 1, _MOST_GPUS + 1)
            if _divides(sizes, count) and _fits(replace(deployment, gpus=count), options, request)
        ),
        None,
    )
    remedy = (
        f"With --tensor-parallel-size {enough} it fits"
        if enough is not None
        else f"It does not fit on {_MOST_GPUS} of them either"
    )
    return (
        f"{sizes.name} does not fit on {deployment.gpus} x {gpu.name}: of {gpu.memory / GIB:.1f} GiB, vLLM may use "
        f"{gpu.memory / GIB * options.gpu_memory_utilization:.1f}; weights take {deployment.weights / GIB:.1f}, other "
        f"things {options.overhead:g}, and one request of {request.rows} rows {needed / GIB:.2f}. {remedy}; or take "
        f"weights of fewer bytes (--quantization), or shorter requests."
    )


def _fits(deployment: Deployment, options: PlanOptions, request: RequestShape) -> bool:
    shape = cache_shape(deployment.sizes, deployment.cache_bytes, deployment.gpus, options.block_size)
    left = deployment.gpu.memory * options.gpu_memory_utilization - deployment.weights - options.overhead * GIB
    return int(left // shape.block_bytes) - 1 >= request_blocks(shape, request).total
