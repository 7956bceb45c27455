"""transformers' own `generate`, as it is used with one context and with two.

Its model is loaded afresh, never taken from our engine. It has no end-of-sequence token, so it always decodes as
many tokens as it is asked for, and pays for no check.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from contenders import STRENGTH, Contender, Message, Request, Sample, Source, one_after_the_other, timed
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

PROPOSED_TOKENS = 10  # what transformers' documentation uses


@dataclass(frozen=True)
class Peer:
    """A model as a user of transformers has it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def ids(self, request: Request, *, instructed: bool = False) -> torch.Tensor:
        """The prompt, (1, tokens), with or without the alignment instruction."""
        messages = with_instruction(request) if instructed else list(request.messages)
        if "tool_calls" not in (self.tokenizer.chat_template or ""):
            messages = as_text(messages)
        prompt = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return prompt["input_ids"].to(self.model.device)

    def generate(self, ids: torch.Tensor, tokens: int, **options: object) -> int:
        """Decode greedily; how many tokens came."""
        mask = torch.ones_like(ids)
        answer = self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **options)
        return len(answer[0, ids.shape[1] :].tolist())  # a list: it waits for the device


@cache
def load_peer(source: Source) -> Peer:
    """The model, once per process."""
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    model = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=getattr(torch, source.dtype), use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    model.generation_config.eos_token_id = None
    return Peer(model, tokenizer)


def plain(source: Source) -> Contender:
    """The base context alone."""
    peer = load_peer(source)
    return one_after_the_other(lambda request, tokens: peer.generate(peer.ids(request), tokens))


def guidance(source: Source) -> Contender:
    """transformers' own two contexts: classifier-free guidance of the same strength."""
    peer = load_peer(source)

    def answer(request: Request, tokens: int) -> int:
        base, instructed = peer.ids(request), peer.ids(request, instructed=True)
        return peer.generate(instructed, tokens, guidance_scale=1 + STRENGTH, negative_prompt_ids=base)

    return one_after_the_other(answer)


def prompt_lookup(source: Source) -> Contender:
    """The base context alone, with proposals copied from the prompt."""
    peer = load_peer(source)
    return one_after_the_other(
        lambda request, tokens: peer.generate(peer.ids(request), tokens, prompt_lookup_num_tokens=PROPOSED_TOKENS)
    )


def first_token(source: Source) -> Contender:
    """One token of the first request."""
    peer = load_peer(source)
    contender = one_after_the_other(lambda request, tokens: peer.generate(peer.ids(request), 1))
    return lambda requests, tokens: contender(requests[:1], tokens[:1])


def padded_batch(source: Source) -> Contender:
    """The base contexts of all requests in one batch, padded at the left, as long as the longest answer."""
    peer = load_peer(source)

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        with timed() as watch:
            prompts = [peer.ids(request) for request in requests]
            longest = max(ids.shape[1] for ids in prompts)
            batch = torch.full((len(prompts), longest), peer.model.generation_config.pad_token_id or 0)
            mask = torch.zeros_like(batch)
            for row, ids in enumerate(prompts):
                batch[row, longest - ids.shape[1] :] = ids[0]
                mask[row, longest - ids.shape[1] :] = 1
            batch, mask = batch.to(peer.model.device), mask.to(peer.model.device)
            peer.model.generate(batch, attention_mask=mask, max_new_tokens=max(tokens), do_sample=False).tolist()
        return Sample(watch.seconds, tuple(tokens))

    return contender


def with_instruction(request: Request) -> list[Message]:
    """The messages with the alignment instruction on a new line behind the last user turn."""
    messages = list(request.messages)
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    messages[last] = {**messages[last], "content": f"{messages[last]['content']}\n{request.instruction}"}
    return messages


def as_text(messages: Sequence[Message]) -> list[Message]:
    """The messages with tool calls and results as text, for templates and frameworks that know none."""
    return [_turn_as_text(message) for message in messages]


def _turn_as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls", ())
    assert isinstance(calls, Sequence)
    lines = (str(message["content"]), *map(_call_as_text, calls))
    return {"role": message["role"], "content": "\n".join(line for line in lines if line)}


def _call_as_text(call: Mapping[str, object]) -> str:
    return f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>"
