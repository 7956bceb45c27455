"""Test doubles for your own tests: a tiny random model that decodes in milliseconds, and scripted engines and scores.

from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, call_text, tiny_engine

chat = ChatSDA(engine=tiny_engine(), alignment="honesty", evaluator=ScriptedEvaluator([80]))

engine = ScriptedEngine([call_text("add", {"a": 1, "b": 2}), "The sum is 3."])
agent = FunctionAgent(llm=SDALLM(engine=engine), tools=[add])
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sda_engine.alignment import Alignment
from sda_engine.config import Sampling, Steering
from sda_engine.engine import SteeringEngine
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError, ConstraintError
from sda_engine.evaluators.protocol import EvaluationRequest, Score
from sda_engine.models import TemplateValue
from sda_engine.output import Output, TokenConstraint
from sda_engine.prompts import Message
from sda_engine.request import Request
from sda_engine.request_settings import RequestSettings
from sda_engine.testing_vision import tiny_vision_model
from sda_engine.tokens import CALL_BEGIN, CALL_END, THOUGHT_END

Architecture = Literal["llama", "gemma3"]
ScriptedAnswer = str | Exception | tuple[str, Exception]

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
    shape = _shape(context_window, vocab_size)
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


def _shape(context_window: int, vocab_size: int) -> dict[str, Any]:
    return {
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


def tiny_vision_engine(
    *, seed: int = 0, context_window: int = 2048, picture_tokens: int = 4, settings: EngineSettings | None = None
) -> SteeringEngine:
    """The same for a tiny random LLaVA, which takes pictures: any of them becomes a small square of so many tokens.

    Args:
        seed: of the weights.
        context_window: tokens of prompt and answer together.
        picture_tokens: that each picture takes; a square number of at least 1, such as 4 or 1024.
        settings: how the engine shares the machine.

    Raises:
        ConfigError: picture_tokens is no square number.
    """
    if picture_tokens < 1 or round(picture_tokens**0.5) ** 2 != picture_tokens:
        raise ConfigError(f"picture_tokens={picture_tokens!r} is no square number of at least 1: take 4, 9, 16, ...")
    tokenizer = tiny_tokenizer(chat_template=None)
    shape = _shape(context_window, len(tokenizer))
    model, processor = tiny_vision_model(tokenizer, shape, seed=seed, picture_tokens=picture_tokens)
    settings = EngineSettings() if settings is None else settings
    return SteeringEngine(model, tokenizer, processor=processor, name="tiny-llava", settings=settings)


def tiny_reward_model(
    *,
    labels: Sequence[str] = ("reward",),
    seed: int = 0,
    context_window: int = 2048,
    chat_template: str | None = CHAT_TEMPLATE,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random classifier of two layers and its tokenizer, for RewardModelEvaluator; one label makes a reward model.

    The same seed gives the same weights; torch's global random state is left alone.
    """
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    config = LlamaConfig(
        **_shape(context_window, len(tokenizer)),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
    model.train(False)
    return model, tokenizer


def call_text(name: str, arguments: Mapping[str, object]) -> str:
    """How a model without a format of its own writes a tool call; for scripts."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_BEGIN}{body}{CALL_END}"


@dataclass(frozen=True)
class ScriptedRequest:
    """What a request asked a ScriptedEngine for: the arguments of SteeringEngine.generate and its kin."""

    messages: Sequence[Message]
    alignment: Alignment | None
    steering: Steering
    sampling: Sampling
    output: Output
    template_kwargs: Mapping[str, TemplateValue]
    adapter: str | None = None
    cache_salt: str | None = field(default=None, repr=False)


class ScriptedEngine(SteeringEngine):
    """An engine whose answers you know. Only the choice of each token is scripted: prompts, forward passes of a tiny
    model, streams, stop strings, tool calls, usage and cancellation are real.

    An answer is cut off at `max_tokens` like any other. Where a call asks for tools or for a schema, the answer has to
    fit, as a model's would: one that does not is a ConstraintError. A base response is the same text as the answer.

    Args:
        script: one entry for each request, in the order in which they are made; the last one repeats. A text is
            answered token by token (`call_text` writes a tool call); an exception is raised in the decoding thread, and
            reaches the caller as SDAError; (text, exception) first answers the text.
        context_window: tokens of prompt and answer together. A token of the tiny vocabulary is about two letters.
        chat_template: what prompts are rendered by; one that mentions <think> makes a model that thinks.

    Attributes:
        requests: the ScriptedRequests so far.

    Raises:
        ConfigError: the script is empty, or an entry is nothing of all that.
    """

    def __init__(
        self,
        script: str | Iterable[ScriptedAnswer],
        *,
        context_window: int = 16_384,
        chat_template: str | None = CHAT_TEMPLATE,
    ) -> None:
        self._entries = [_read_entry(entry) for entry in ([script] if isinstance(script, str) else script)]
        if not self._entries:
            raise ConfigError("A script cannot be empty: it needs at least one answer.")
        self._places = itertools.count()  # whose next() two threads can share
        self.requests: list[ScriptedRequest] = []
        tokenizer = tiny_tokenizer(chat_template=chat_template)
        model = tiny_model(context_window=context_window, vocab_size=len(tokenizer))
        super().__init__(model, tokenizer, name="scripted")

    def _request(self, messages: Sequence[Message], settings: RequestSettings) -> Request:
        request = super()._request(messages, settings)
        self._compile(request)
        request.grammar = None  # it is compiled
        text, failure = self._entries[min(next(self._places), len(self._entries) - 1)]
        self.requests.append(
            ScriptedRequest(
                messages=messages,
                alignment=settings.alignment,
                steering=settings.steering,
                sampling=settings.sampling,
                output=settings.output,
                template_kwargs=settings.template_kwargs,
                adapter=settings.adapter,
                cache_salt=settings.cache_salt,
            )
        )
        end = min(request.eos_token_ids)
        tokens, behind = (
            [*self._tokenizer.encode_answer(part), end] for part in (text, text.partition(THOUGHT_END)[2])
        )
        request.constraint = _ScriptedTokens(text, tokens, failure, request.constraint, behind)
        return request


def _read_entry(entry: object) -> tuple[str, Exception | None]:
    match entry:
        case str():
            return entry, None
        case Exception():
            return "", entry
        case (str(text), Exception() as failure):
            return text, failure
    raise ConfigError(f"A scripted answer cannot be {entry!r}: it must be a text, an exception, or a pair of them.")


class _ScriptedTokens(TokenConstraint):
    """Lets one answer through, token by token.

    Args:
        text: the answer, for errors.
        token_ids: its tokens, and one that ends it.
        failure: what is raised in place of the end.
        form: what the answer has to fit.
        behind: its tokens behind the thought, where it goes on if that is cut.
    """

    def __init__(
        self,
        text: str,
        token_ids: Sequence[int],
        failure: Exception | None,
        form: TokenConstraint | None,
        behind: Sequence[int],
    ) -> None:
        self._text, self._token_ids, self._failure, self._form = text, token_ids, failure, form
        self._behind = behind
        self._place = 0

    def copy(self) -> TokenConstraint:
        form = None if self._form is None else self._form.copy()
        return _ScriptedTokens(self._text, self._token_ids, self._failure, form, self._behind)

    @property
    def complete(self) -> bool:
        return self._form is not None and self._form.complete

    def apply_mask(self, logits: Tensor) -> Tensor:
        token_id = self._token_ids[self._place]
        if self._failure is not None and self._place == len(self._token_ids) - 1:
            raise self._failure
        if self._form is not None and self._form.apply_mask(logits)[0, token_id].isinf():
            raise ConstraintError(
                f"The scripted answer {self._text!r} does not fit the form that the call asks for. Change the script; "
                f"JSON has a space after each ':' and ',', as json.dumps writes it."
            )
        alone = torch.full_like(logits, float("-inf"))
        alone[:, token_id] = logits[:, token_id]
        return alone

    def forced(self) -> Sequence[int]:
        return ()

    def choose(self, token_id: int, remaining: int) -> int:
        return token_id

    def make_way(self, token_ids: Sequence[int]) -> bool:
        if self._form is not None and not self._form.make_way(token_ids):
            return False
        self._token_ids, self._place = [*token_ids, *self._behind], 0
        return True

    def advance(self, token_id: int) -> None:
        self._place += 1
        if self._form is not None:
            self._form.advance(token_id)


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
