"""What a client of vLLM has otherwise than one of `sda serve`: one table, which docs show and tests try."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise.

    Attributes:
        what: of the wire format or of answers.
        served: how it is with `sda serve`.
        in_vllm: how it is inside vLLM.
        asks: a part of a request that vLLM refuses and `sda serve` answers; empty where nothing is refused.
        field: what the refusal names.
    """

    what: str
    served: str
    in_vllm: str
    asks: Mapping[str, Any] = field(default_factory=dict)
    field: str | None = None


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "`sda.trace`",
        "what steering did at each token",
        "refused; the means of divergence and temperature are told",
        {"sda": {"alignment": "honesty", "trace": True}},
        "sda.trace",
    ),
    Difference(
        "`sda.guard`",
        "looks for loops and collapsed distributions",
        "refused",
        {"sda": {"alignment": "honesty", "guard": "report"}},
        "sda.guard",
    ),
    Difference(
        "evaluators that look inside the model: contrastive, self-rating, uncertainty",
        "rate in the server",
        "refused; `RemoteEngine` runs the stages itself with a judge of the client's, and judges of the operator's "
        "rate in the server. To choose among revisions the contrastive score is there",
        {"sda": {"alignment": "honesty", "evaluator": "contrastive"}},
        "sda.evaluator",
    ),
    Difference(
        "pictures",
        "read where the model sees",
        "refused",
    ),
    Difference(
        "`sda.adapter`, names MODEL:ADAPTER",
        "answers under a PEFT adapter",
        "refused; vLLM serves a LoRA under its own name, without steering",
    ),
    Difference(
        "JSON and calls that run into the token limit",
        "are closed within it",
        'are cut, with finish_reason "length"',
    ),
    Difference(
        "forced parts of JSON and calls",
        "are written without a choice, in as few tokens as there can be",
        "are chosen token by token, from what vLLM's grammar leaves",
    ),
    Difference(
        "requests without `sda`",
        "answered with the same engine",
        "answered by vLLM itself, with all its fields, but for those with an alias, with log-probabilities, or where "
        "the server has a default alignment",
    ),
    Difference(
        "`/v1/completions`, `/tokenize`",
        "answered",
        "answered where the request has `sda`, else by vLLM itself",
    ),
    Difference(
        "`/`, `/health`, `/metrics`",
        "the playground, the server's own",
        "vLLM's own, and no playground",
    ),
    Difference(
        "`usage.prompt_tokens_details.cached_tokens`",
        "to the token",
        "in whole blocks of vLLM's cache",
    ),
)
