"""Test doubles for your own tests: a tiny random model that decodes in milliseconds, and scripted evaluators.

from sda_engine.testing import ScriptedEvaluator, tiny_engine

engine = tiny_engine()
chat = ChatSDA(engine=engine, alignment="honesty", evaluator=ScriptedEvaluator([80]))
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sda_engine.engine import SteeringEngine
from sda_engine.evaluators.protocol import EvaluationRequest, Score

Architecture = Literal["llama", "gemma3"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CORPUS = (
    "the quick brown fox jumps over the lazy dog and the answer to the question is in the library",
    "a user asks and the assistant answers with care; the system says how to answer the user",
)


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 320 tokens with ChatML control tokens; any text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = chat_template
    return fast


def tiny_model(
    *, architecture: Architecture = "llama", seed: int = 0, context_window: int = 2048, vocab_size: int = 320
) -> PreTrainedModel:
    """A random model of two layers. "gemma3" has one layer with a sliding window of 16 tokens.

    The same seed gives the same weights; torch's global random state is left alone.
    """
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context_window,
        "initializer_range": 0.3,  # the usual 0.02 gives nearly uniform distributions
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    model: PreTrainedModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "gemma3":
            layers = ["sliding_attention", "full_attention"]
            model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, sliding_window=16, layer_types=layers))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape))
    model.train(False)
    return model


def tiny_engine(
    *,
    architecture: Architecture = "llama",
    seed: int = 0,
    context_window: int = 2048,
    chat_template: str | None = CHAT_TEMPLATE,
) -> SteeringEngine:
    """An engine on a tiny random model in float32. Its answers are gibberish, everything else is real."""
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    model = tiny_model(architecture=architecture, seed=seed, context_window=context_window, vocab_size=len(tokenizer))
    return SteeringEngine(model, tokenizer, name=f"tiny-{architecture}")


class ScriptedEvaluator:
    """Gives the scores of a script one after the other, and raises what is an exception in it.

    Args:
        script: scores and exceptions, one for each evaluation; the last one repeats.
        needs_response: whether to have a base response decoded.
        needs_logprobs: whether to be given the base response's log-probabilities.

    Attributes:
        requests: the EvaluationRequests so far.
    """

    def __init__(
        self,
        script: Iterable[float | Exception],
        *,
        needs_response: bool = True,
        needs_logprobs: bool = False,
    ) -> None:
        self._script = list(script)
        self.needs_response = needs_response
        self.needs_logprobs = needs_logprobs
        self.requests: list[EvaluationRequest] = []

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        return f"ScriptedEvaluator({self._script!r})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """The next entry of the script."""
        entry = self._script[min(len(self.requests), len(self._script) - 1)]
        self.requests.append(request)
        if isinstance(entry, Exception):
            raise entry
        return Score(value=float(entry), evaluator=self.name)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The next entry of the script."""
        return self.evaluate(request)
