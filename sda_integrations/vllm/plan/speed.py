"""Bounds on the time of a decoding step: what has to be read, and what has to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sda_integrations.vllm.plan.cache import layer_token_bytes
from sda_integrations.vllm.plan.gpus import Gpu
from sda_integrations.vllm.plan.models import ModelSizes

Limit = Literal["weights", "keys and values", "compute"]


@dataclass(frozen=True)
class Deployment:
    """A model on the GPUs of one engine.

    Attributes:
        sizes: of the model.
        gpu: each of them.
        gpus: that share each layer (the tensor parallel size).
        plain_bytes: of a weight of the embeddings.
        weight_bytes: of any other weight.
        cache_bytes: of a number in the cache.
    """

    sizes: ModelSizes
    gpu: Gpu
    gpus: int
    plain_bytes: int
    weight_bytes: float
    cache_bytes: int

    @property
    def weights(self) -> float:
        """Bytes of the weights on each GPU."""
        quantizable = self.sizes.parameters - self.sizes.embeddings
        return (quantizable * self.weight_bytes + self.sizes.embeddings * self.plain_bytes) / self.gpus

    def weights_read(self, rows: int) -> float:
        """Bytes of these that a step of so many rows reads: of input embeddings next to nothing."""
        looked_up = (self.sizes.parameters - self.sizes.multiplied) * self.plain_bytes
        return self.weights - (looked_up + _unread_experts(self.sizes, rows) * self.weight_bytes) / self.gpus


@dataclass(frozen=True)
class Step:
    """The least time of one decoding step.

    Attributes:
        seconds: no step is faster.
        limit: what takes longest of what has to happen.
    """

    seconds: float
    limit: Limit


def least_step(deployment: Deployment, lengths: Sequence[float]) -> Step:
    """The least time of a step that reads one token of each row.

    Weights and the keys and values of every row come from memory, while tensor cores compute in bfloat16: the slower of
    the two counts. Rows of a group share blocks, but each row reads them. Not counted: what GPUs tell each other,
    activations, sampling, the launch of kernels; so real steps are slower.

    Args:
        deployment: the model and the GPUs.
        lengths: tokens that each row attends to.
    """
    sizes, gpu, rows = deployment.sizes, deployment.gpu, len(lengths)
    weights = deployment.weights_read(rows) / gpu.bandwidth
    attended = sum(_attended(sizes, length) for length in lengths)
    cache = attended * layer_token_bytes(sizes, deployment.cache_bytes, deployment.gpus) / gpu.bandwidth
    products = 2 * _parameters_per_token(sizes) * rows + 4 * sizes.query_heads * sizes.head_dim * attended
    compute = 0.0 if gpu.flops is None else products / (gpu.flops * deployment.gpus)
    if compute > weights + cache:
        return Step(compute, "compute")
    return Step(weights + cache, "weights" if weights >= cache else "keys and values")


@dataclass(frozen=True)
class Costs:
    """What a step is made of, in seconds, if nothing went on at the same time as anything else.

    Attributes:
        weights: reading them, in any step.
        token: multiplying one token with them, of an answer or of a prompt.
        cached_token: reading its keys and values.
    """

    weights: float
    token: float
    cached_token: float


def step_costs(deployment: Deployment) -> Costs:
    """What a step of a dense model without sliding windows is made of."""
    sizes, gpu = deployment.sizes, deployment.gpu
    assert sizes.experts is None, "which experts are read depends on the rows"
    assert gpu.flops is not None, "prompts cost operations"
    token_bytes = sizes.layers * layer_token_bytes(sizes, deployment.cache_bytes, deployment.gpus)
    return Costs(
        weights=deployment.weights_read(1) / gpu.bandwidth,
        token=2 * sizes.multiplied / (gpu.flops * deployment.gpus),
        cached_token=token_bytes / gpu.bandwidth,
    )


def _attended(sizes: ModelSizes, length: float) -> float:
    """Tokens that a row reads, summed over the layers."""
    return sum(count * (length if window is None else min(length, window)) for window, count in sizes.windows)


def _parameters_per_token(sizes: ModelSizes) -> float:
    """Parameters that a token is multiplied with: not the experts that do not read it."""
    if sizes.experts is None:
        return sizes.multiplied
    idle = 1 - sizes.experts.per_token / sizes.experts.count
    return sizes.multiplied - sizes.experts.parameters * idle


def _unread_experts(sizes: ModelSizes, rows: int) -> float:
    """Parameters of the experts that no row of a step chooses, were each as likely as any other."""
    if sizes.experts is None:
        return 0.0
    return sizes.experts.parameters * (1 - sizes.experts.per_token / sizes.experts.count) ** rows
