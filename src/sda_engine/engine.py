"""SteeringEngine: one loaded model, and requests for aligned answers from it. The only orchestrator.

A request runs through the paper's stages: prompts for both contexts; a base response and its score, where an
evaluator needs one; the amplification factor; steered decoding. The forward passes happen in the scheduler's
thread, the evaluator is called in the caller's. The file is long for its docstrings: each public method comes in a form
for threads and one for event loops, and hands over to `request` and `text_scorer` at once.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Self, Unpack, cast

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sda_engine.alignment import Alignment, resolve_alignment
from sda_engine.config import Placement
from sda_engine.decoding import ModelRunner, PromptState, Scheduler, default_cache_tokens
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import Evaluator, Score
from sda_engine.forks import compute
from sda_engine.models import LoadedModel, ModelSettings, QuantizationConfig, load_model, wrap_model
from sda_engine.output import ConstraintCompiler, Output
from sda_engine.prompts import BASE, Contexts, Message, make_contexts
from sda_engine.request import Request
from sda_engine.request_settings import RequestOptions, RequestSettings
from sda_engine.results import Completion, Piece
from sda_engine.settings import check_timeout, check_type
from sda_engine.text_scorer import TextScorer
from sda_engine.tokens import SafeTokenizer, TokenCategories

_PREFIX_TOKENS = 16  # at the end of a prompt, where an opened thought would stand

_loaded: "dict[str, SteeringEngine]" = {}
_loading = threading.Lock()


class SteeringEngine:
    """Decodes answers with SDA on one local model. Safe to use from many threads and event loops.

    Args:
        model: a causal language model of transformers, in memory.
        tokenizer: its tokenizer.
        name: what results call the model.
        settings: how the engine shares the machine between requests.

    Raises:
        ModelLoadError: the engine cannot run this kind of model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "custom",
        settings: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    ) -> None:
        check_type("settings", settings, EngineSettings)
        self._set_up(wrap_model(model, tokenizer, ModelSettings(model=name)), settings)

    @classmethod
    def load(
        cls,
        model: str = "smollm2-135m",
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | dict[str, int | str] | None = None,
        quantization_config: QuantizationConfig | Mapping[str, object] | None = None,
        settings: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    ) -> Self:
        """Load a model: an alias ("smollm2-135m"), a local folder or GGUF file, or a Hub id.

        The same model with the same settings is loaded once per process and stays loaded: the same engine is
        returned until somebody closes it.

        Args:
            model: alias, path or Hub id.
            revision: branch, tag or commit of a Hub model.
            device: "auto" (cuda, then mps, then cpu) or a torch device.
            dtype: "auto" (bfloat16 where the processor has native support, else float32), "float32", "bfloat16"
                or "float16".
            device_map: passed to transformers, in place of `device`.
            quantization_config: passed to transformers.
            settings: how the engine shares the machine between requests.

        Raises:
            ModelLoadError: there is no such model, or the engine cannot run it.
            ConfigError: a setting is out of range or not available on this machine.
        """
        check_type("settings", settings, EngineSettings)
        model_settings = ModelSettings(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            quantization_config=quantization_config,
        )
        key = f"{cls.__qualname__} {model_settings.describe()} {settings}"
        with _loading:
            engine = _loaded.get(key)
            if engine is None:
                engine = cls.__new__(cls)
                engine._set_up(compute(lambda: load_model(model_settings)), settings)
                _loaded[key] = engine
        return cast(Self, engine)

    def _set_up(self, loaded: LoadedModel, settings: EngineSettings) -> None:
        runner = ModelRunner(loaded.model)
        self._token_cost = runner.token_cost
        self._settings = settings
        self._loaded_model = loaded
        self._tokenizer = SafeTokenizer(loaded.tokenizer)
        vocab_size = loaded.model.config.get_text_config(decoder=True).vocab_size
        self._constraints = ConstraintCompiler(self._tokenizer, vocab_size, loaded.eos_token_ids)
        self._categories = TokenCategories(self._tokenizer, vocab_size)
        cache_tokens = settings.cache_tokens
        if cache_tokens is None:
            cache_tokens = default_cache_tokens(loaded.model.device, runner.bytes_per_token)
        self._scheduler = Scheduler(runner, settings, cache_tokens)

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self._loaded_model.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer. The engine works on a copy of its own, so this one is yours alone."""
        return self._loaded_model.tokenizer

    @property
    def name(self) -> str:
        """The model's name, as it was given to `load`."""
        return self._loaded_model.settings.model

    @property
    def context_window(self) -> int:
        """Tokens that the model can attend to, prompt and answer together."""
        return self._loaded_model.context_window

    @property
    def thinks(self) -> bool:
        """Whether the model may write a thought before its answer; it comes as `Completion.reasoning`."""
        return self._tokenizer.answer_format.thinks

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON: name, revision, device, dtype, quantization."""
        device, dtype = str(self.model.device), str(self.model.dtype).removeprefix("torch.")
        return {**self._loaded_model.settings.describe(), "device": device, "dtype": dtype}

    def generate(
        self,
        messages: Sequence[Message],
        alignment: Alignment | str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """Answer a chat.

        Args:
            messages: plain dicts in the chat format of transformers: {"role": ..., "content": ...}.
            alignment: a preset's name, an instruction of your own, an Alignment, or None for a plain answer of the
                base context alone.
            steering: how strongly to steer, and who rates.
            sampling: how to sample, and when to stop.
            output: the form of the answer: tools that it may or must call, a JSON schema or grammar that it must fit.
            timeout: seconds for all decoding of the request, waiting time included; None waits for ever. An evaluator
                has a limit of its own.

        Raises:
            MessageError, ConfigError: the input is malformed.
            ConstraintError: the output's schema or grammar cannot be enforced, or is too large.
            ContextLengthError: the prompt leaves no room for one new token.
            EvaluationError: no score, where Steering.on_evaluator_error is "raise"; the base response is in it.
            RequestTimeoutError: the timeout passed.
            NumericalError: the model gave no usable distribution.
        """
        for piece in self.stream(messages, alignment, **options):
            if piece.completion is not None:
                return piece.completion
        raise AssertionError("the last piece carries the completion")

    def stream(
        self,
        messages: Sequence[Message],
        alignment: Alignment | str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[Piece, None, None]:
        """The same in pieces, as they are decoded; the last one carries the Completion.

        The input is checked at once, the work starts with the first piece. Closing the iterator stops the work.
        Arguments and errors are those of `generate`.
        """
        settings = RequestSettings.of(alignment, options)
        request = self._request(messages, settings)
        self._compile(request)
        return self._stream(request, settings.deadline())

    async def agenerate(
        self,
        messages: Sequence[Message],
        alignment: Alignment | str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """`generate` for an event loop, which goes on meanwhile. Cancelling the task stops the work."""
        async with aclosing(self.astream(messages, alignment, **options)) as pieces:
            async for piece in pieces:
                if piece.completion is not None:
                    return piece.completion
        raise AssertionError("the last piece carries the completion")

    def astream(
        self,
        messages: Sequence[Message],
        alignment: Alignment | str | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[Piece, None]:
        """`stream` for an event loop. Closing the iterator or cancelling the task stops the work.

        A schema or grammar that cannot be enforced shows with the first piece, since the loop must not wait for it.
        """
        settings = RequestSettings.of(alignment, options)
        return self._astream(self._request(messages, settings), settings.deadline())

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens are neither added nor recognised."""
        return self._tokenizer.encode(text)

    def count_prompt_tokens(
        self,
        messages: Sequence[Message],
        *,
        output: Output = Output(),  # noqa: B008 - frozen
    ) -> int:
        """Tokens of the base prompt that these messages become, with the output's tools and schema where it has any.

        They may be more than the context window holds.

        Raises:
            MessageError: the messages are malformed.
        """
        return make_contexts(messages, None, self._tokenizer, output=output).prompt_tokens()

    def continuation_logprobs(
        self, messages: Sequence[Message], continuations: Sequence[str], *, timeout: float | None = None
    ) -> Tensor:
        """How likely each text is as the beginning of the model's own answer to a chat. Nothing is steered.

        The prompt is computed once. A text of one token costs nothing more, a longer one a forward pass.

        Args:
            messages: as for `generate`.
            continuations: the texts, none of them empty.
            timeout: seconds, waiting time included; None waits for ever.

        Returns:
            (continuations,) float32, nats: the sum of the log-probabilities of each text's tokens.

        Raises:
            MessageError, ConfigError: the input is malformed.
            ContextLengthError: prompt and text are longer than the context window.
            RequestTimeoutError: the timeout passed.
        """
        return self._text_scorer(_deadline(timeout)).continuation_logprobs(messages, continuations)

    async def acontinuation_logprobs(
        self,
        messages: Sequence[Message],
        continuations: Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Tensor:
        """`continuation_logprobs` for an event loop."""
        return await self._text_scorer(_deadline(timeout)).acontinuation_logprobs(messages, continuations)

    def rate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: Alignment | str,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        timeout: float | None = None,
    ) -> Score:
        """Have an evaluator rate a response that is given: what it would say, were this the base response.

        Args:
            messages: as for `generate`.
            response: the text to rate, tokenised as plain text where the evaluator wants its log-probabilities.
            alignment: what it is rated for.
            evaluator: who rates.
            placement: where the instruction goes, see Steering.placement.
            timeout: seconds for what the model computes; an evaluator has a limit of its own.

        Raises:
            EvaluationError, or what the evaluator raises: no score.
            MessageError, ConfigError, ContextLengthError, RequestTimeoutError: as for `generate`.
        """
        scorer, wanted = self._text_scorer(_deadline(timeout)), _resolved(alignment)
        return evaluator.evaluate(scorer.evaluation_request(messages, response, wanted, evaluator, placement))

    async def arate(
        self,
        messages: Sequence[Message],
        response: str,
        alignment: Alignment | str,
        evaluator: Evaluator,
        *,
        placement: Placement = "after_query",
        timeout: float | None = None,  # noqa: ASYNC109 - it covers the queue too, and stops the work
    ) -> Score:
        """`rate` for an event loop."""
        scorer, wanted = self._text_scorer(_deadline(timeout)), _resolved(alignment)
        request = await scorer.aevaluation_request(messages, response, wanted, evaluator, placement)
        return await evaluator.aevaluate(request)

    def close(self) -> None:
        """Stop all work, end the worker thread and let go of the model. Requests from here on are refused."""
        with _loading:
            for key in [key for key, engine in _loaded.items() if engine is self]:
                del _loaded[key]
        self._scheduler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, device={str(self.model.device)!r}, dtype={self.model.dtype})"

    def _request(self, messages: Sequence[Message], settings: RequestSettings) -> Request:
        output = settings.output
        contexts = make_contexts(
            messages,
            settings.alignment,
            self._tokenizer,
            placement=settings.steering.placement,
            output=output,
            context_window=self.context_window,
        )
        most = min(settings.sampling.max_new_tokens, self.context_window - contexts.longest_prompt)
        prefix = self._answer_prefix(contexts)
        answer_format = self._tokenizer.answer_format
        return Request(
            messages=messages,
            settings=settings,
            prompt=PromptState(contexts, most),
            tokenizer=self._tokenizer,
            eos_token_ids=self._loaded_model.eos_token_ids,
            proposals=self._settings.proposals,
            token_cost=self._token_cost,
            grammar=output.grammar(answer_format, thought_is_open=bool(prefix)),
            response_template=answer_format.template(with_tools=bool(output.callable_tools)),
            answer_prefix=prefix,
        )

    def _text_scorer(self, deadline: float | None) -> TextScorer:
        return TextScorer(
            self._scheduler, self._tokenizer, self.context_window, description=self.describe(), deadline=deadline
        )

    def _compile(self, request: Request) -> None:
        """Make the request's grammar and token categories ready; the first ones of an engine take a second."""
        if request.grammar is not None:
            request.constraint = self._constraints.compile(request.grammar)
        request.critical_tokens = self._categories.mask(request.settings.steering.critical_categories)

    def _answer_prefix(self, contexts: Contexts) -> str:
        """What the prompt has already written of the answer, which can only be the beginning of a thought."""
        answer_format = self._tokenizer.answer_format
        if not answer_format.thinks:
            return ""
        prompt = (*contexts.shared, *contexts.tails[BASE])
        text = self._tokenizer.decode(prompt[-_PREFIX_TOKENS:], skip_special_tokens=False)
        return answer_format.thought_begin if text.rstrip().endswith(answer_format.thought_begin) else ""

    def _stream(self, request: Request, deadline: float | None) -> Generator[Piece, None, None]:
        for task in request.evaluation_tasks():
            for _ in self._scheduler.events(task, deadline):
                pass
        if request.wants_score:
            with request.verdict() as verdict:
                evaluation = request.evaluation_request(self._text_scorer(deadline))
                verdict.score = request.settings.steering.evaluator.evaluate(evaluation)
        if request.accepted:
            yield request.accepted_piece()
            return
        with closing(self._scheduler.events(request.steered_task(), deadline)) as events:
            for event in events:
                yield request.piece(event)

    async def _astream(self, request: Request, deadline: float | None) -> AsyncGenerator[Piece, None]:
        if request.grammar is not None or request.settings.steering.critical_categories:
            await asyncio.to_thread(self._compile, request)
        for task in request.evaluation_tasks():
            async with aclosing(self._scheduler.aevents(task, deadline)) as events:
                async for _ in events:
                    pass
        if request.wants_score:
            with request.verdict() as verdict:
                evaluation = request.evaluation_request(self._text_scorer(deadline))
                verdict.score = await request.settings.steering.evaluator.aevaluate(evaluation)
        if request.accepted:
            yield request.accepted_piece()
            return
        async with aclosing(self._scheduler.aevents(request.steered_task(), deadline)) as events:
            async for event in events:
                yield request.piece(event)


def _resolved(alignment: Alignment | str) -> Alignment:
    resolved = resolve_alignment(alignment)
    if resolved is None:
        raise ConfigError("A response cannot be rated for alignment=None: name what it is rated for, e.g. 'honesty'.")
    return resolved


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + check_timeout(timeout)
