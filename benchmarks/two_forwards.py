"""SDA as one writes it down first: two caches, and two separate forward passes per token."""

import torch
from contenders import STRENGTH, Contender, Source, one_after_the_other
from peers import load_peer
from transformers import DynamicCache, PreTrainedModel

from sda_engine.steering import steer


def two_forwards(source: Source) -> Contender:
    """The contender."""
    peer = load_peer(source)
    return one_after_the_other(
        lambda request, tokens: len(
            decode(peer.model, peer.ids(request), peer.ids(request, instructed=True), tokens),
        )
    )


@torch.inference_mode()
def decode(model: PreTrainedModel, base: torch.Tensor, instructed: torch.Tensor, tokens: int) -> list[int]:
    """So many tokens, greedily; the prompts are (1, tokens)."""
    base_cache, instructed_cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    answer: list[int] = []
    while len(answer) < tokens:
        base_logprobs = _next_logprobs(model, base, base_cache)
        instructed_logprobs = _next_logprobs(model, instructed, instructed_cache)
        base = instructed = steer(base_logprobs, instructed_logprobs, STRENGTH).argmax(dim=-1, keepdim=True)
        answer.append(int(base))
    return answer


def _next_logprobs(model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Log-probabilities of the next token, (1, vocab), in float32."""
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return torch.log_softmax(logits.float(), dim=-1)
