"""SteeringEngine: one loaded model, and requests for aligned answers from it. The only orchestrator.

A request runs through the paper's stages: prompts for both contexts; a base response and its score, where an
evaluator needs one; the amplification factor; steered decoding. The forward passes happen in the scheduler's
thread, the evaluator is called in the caller's. Each public method comes in a form for threads and one for event loops,
and hands over to `request` and `text_scorer` at once. That doubling, and what users read of each method here, make the
file longer than others.
"""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Self, Unpack, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from sda_engine.alignment import AlignmentLike
from sda_engine.apart import Apart
from sda_engine.config import NoEffectWarning
from sda_engine.decoding import EngineStats, PromptState, closes_thoughts
from sda_engine.engine_parts import EngineParts, local_parts
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.forks import compute
from sda_engine.models import (
    ModelSettings,
    QuantizationConfig,
    Registry,
    TemplateValue,
    explain_cut,
    load_model,
    template_variables,
    wrap_model,
)
from sda_engine.output import ConstraintCompiler, Output
from sda_engine.prompts import Message, make_contexts, normalise_messages, prompt_end, read_messages
from sda_engine.request import Request
from sda_engine.request_settings import RequestOptions, RequestSettings, hash_salt
from sda_engine.results import Completion, Piece
from sda_engine.revising import Revising
from sda_engine.settings import check_type
from sda_engine.text_scorer import ScoresTexts, TextScorer
from sda_engine.tokens import SafeTokenizer, TokenCategories
from sda_engine.user_warnings import warn_user

_loaded: "Registry[SteeringEngine]" = Registry()


class SteeringEngine(ScoresTexts):
    """Decodes answers with SDA on one local model. Safe to use from many threads and event loops.

    Args:
        model: a causal language model of transformers, in memory, or a PeftModel around one.
        tokenizer: its tokenizer.
        processor: its processor, for a model that sees pictures; without one it is given text alone.
        name: what results call the model. Caches tell models of one name apart all the same, see `describe`.
        settings: how the engine shares the machine between requests.

    Raises:
        ModelLoadError: the engine cannot run this kind of model.
    """

    backend: ClassVar[str] = "sda"
    """What runs the model, as a server of the engine tells its clients."""

    has_evaluators: ClassVar[bool] = True
    """Whether evaluators may rate in the engine, which takes one that scores texts and lends them its model. Clients of
    a server whose engine has none rate by themselves."""

    tells_traces: ClassVar[bool] = True
    """Whether answers tell what steering did at each token."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        processor: ProcessorMixin | None = None,
        name: str = "custom",
        settings: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    ) -> None:
        check_type("settings", settings, EngineSettings)
        loaded = wrap_model(model, tokenizer, ModelSettings(model=name), processor)
        self._set_up(local_parts(loaded, settings, can_be_loaded=False))

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
        adapters: Mapping[str, str] | None = None,
        settings: EngineSettings | None = None,
    ) -> Self:
        """Load a model: an alias ("smollm2-135m"), a local folder or GGUF file, or a Hub id.

        A model is loaded once per process for each device, dtype and quantization, and stays loaded: the same engine
        is returned until somebody closes it.

        Args:
            model: alias, path or Hub id.
            revision: branch, tag or commit of a Hub model.
            device: "auto" (cuda, then mps, then cpu) or a torch device.
            dtype: "auto" (bfloat16 where the processor has native support, else float32), "float32", "bfloat16"
                or "float16".
            device_map: passed to transformers, in place of `device`.
            quantization_config: passed to transformers.
            adapters: PEFT adapters, by the names that requests call them by: folders or Hub ids. None of them is at
                work where a request names none.
            settings: how the engine shares the machine between requests. None: as it does where the model is loaded
                already, else EngineSettings().

        Raises:
            ModelLoadError: there is no such model, or the engine cannot run it.
            ConfigError: a setting is out of range or not available on this machine, or the model is loaded already
                with other `settings`.
        """
        if settings is not None:
            check_type("settings", settings, EngineSettings)
        model_settings = ModelSettings(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            quantization_config=quantization_config,
            adapters=dict(adapters or {}),
        )

        def make() -> SteeringEngine:
            engine = cls.__new__(cls)
            loaded = compute(lambda: load_model(model_settings))
            engine._set_up(local_parts(loaded, settings or EngineSettings(), can_be_loaded=True))
            return engine

        engine = _loaded.get(f"{cls.__qualname__} {model_settings.identity()}", make)
        if settings is not None and settings != engine._settings:
            raise ConfigError(
                f"settings={settings!r} come too late: {model!r} is loaded already, with {engine._settings!r}, and is "
                f"kept in memory once. Share that engine (leave the settings out, or pass engine=...), or close it "
                f"first."
            )
        return cast(Self, engine)

    def _set_up(self, parts: EngineParts) -> None:
        self._settings = parts.settings
        self._loaded_model = parts.facts  # the model itself is the runner's, which lets go of it at the end
        self._runner = parts.runner
        self._closed = False
        self._tokenizer = parts.tokenizer
        self._constraints = ConstraintCompiler(parts.tokenizer, parts.vocab_size, parts.facts.eos_token_ids)
        self._categories = TokenCategories(parts.tokenizer, parts.vocab_size)
        self._cache_tokens = parts.cache_tokens
        self._scheduler = parts.scheduler
        self._adapters = parts.adapters
        self._weights = parts.weights

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model.

        Raises:
            EngineClosedError: the engine has been closed, and has let go of it.
        """
        return self._runner.model

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
        return self._loaded_model.window.tokens

    @property
    def thinks(self) -> bool:
        """Whether the model may write a thought before its answer; it comes as `Completion.reasoning`."""
        return self._tokenizer.answer_format.thinks

    @property
    def reads_pictures(self) -> bool:
        """Whether messages may hold pictures, which takes a vision-language model and its processor."""
        return self._tokenizer.reads_pictures

    @property
    def template_variables(self) -> frozenset[str]:
        """The variables of the model's chat template that a request may set, by `template_kwargs`."""
        return template_variables(self._loaded_model.tokenizer)

    @property
    def closed(self) -> bool:
        """Whether the engine has been closed."""
        return self._closed

    @property
    def alive(self) -> bool:
        """Whether requests are worked on: False once the engine is closed, or if its worker thread has died."""
        return self._scheduler.alive

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON: name, revision, device, dtype, quantization, context window.

        Where the window is shorter than the one that the model states, that one comes with the reason. Where these do
        not tell what the weights are, since the model was made in memory or changed after it was loaded, there is a
        `weights_id` too, which no other engine has and which changes with the weights.
        """
        window = self._loaded_model.window
        device, dtype = self._runner.place
        told = {**self._loaded_model.settings.describe(), "device": device, "dtype": dtype}
        told["context_window"] = window.tokens
        told["runner"] = self._runner.name
        if self._runner.reason is not None:
            told["runner_reason"] = self._runner.reason
        if reason := explain_cut(window):
            told |= {"stated_context_window": window.stated, "context_window_reason": reason}
        if (known := self._weights.name) is not None:
            told["weights_id"] = known
        return told

    def generate(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """Answer a chat.

        Args:
            messages: plain dicts in the chat format of transformers: {"role": ..., "content": ...}. The content is a
                text, or a list of {"type": "text", "text": ...} and, for a model that reads pictures, {"type": "image",
                "image": ...} with a PIL image, a pathlib.Path, bytes or a data URL.
            alignment: a preset's name, an instruction of your own, an Alignment, several of these with weights, e.g.
                {"honesty": 1.0, "empathy": 0.5} (see Alignment.combine), or None for a plain answer of the base context
                alone.
            steering: how strongly to steer, and who rates.
            sampling: how to sample, and when to stop.
            output: the form of the answer: tools that it may or must call, a JSON schema or grammar that it must fit.
            timeout: seconds from the call on, waiting and rating included; None waits for ever. An evaluator at work is
                not interrupted, since it has a limit of its own: the request ends after it.
            template_kwargs: values for variables that the model's chat template leaves open, e.g.
                {"enable_thinking": False}; texts, numbers, True, False or None.
            adapter: the PEFT adapter that all rows of the request run under, alone. None: the model as it was given,
                with the adapters that are active on it.
            cache_salt: a text of 1 to 256 characters that those share who may profit from each other's requests, one
                for each tenant, say. What is stored of prompts and pictures, and the scores that a CachedEvaluator
                keeps, are found by requests of the same salt alone; those without one share with each other. So nobody
                can tell by the time to the first token what others have asked.

        Raises:
            MessageError, ConfigError: the input is malformed.
            ConstraintError: the output's schema or grammar cannot be enforced, or is too large.
            ContextLengthError: the prompt leaves no room for one new token.
            EvaluationError: no score, where Steering.on_evaluator_error is "raise"; the base response is in it.
            RequestTimeoutError: the timeout passed.
            NumericalError: the model gave no usable distribution.
        """
        for piece in self._pieces(messages, RequestSettings.of(alignment, options, whole=True)):
            if piece.completion is not None:
                return piece.completion
        raise AssertionError("the last piece carries the completion")

    def stream(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[Piece, None, None]:
        """The same in pieces, as they are decoded; the last one carries the Completion.

        The input is checked at once, the work starts with the first piece. Closing the iterator stops the work.
        Arguments and errors are those of `generate`.
        """
        return self._pieces(messages, RequestSettings.of(alignment, options, whole=False))

    async def agenerate(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """`generate` for an event loop, which goes on meanwhile. Cancelling the task stops the work."""
        async with aclosing(self._apieces(messages, RequestSettings.of(alignment, options, whole=True))) as pieces:
            async for piece in pieces:
                if piece.completion is not None:
                    return piece.completion
        raise AssertionError("the last piece carries the completion")

    def astream(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[Piece, None]:
        """`stream` for an event loop. Closing the iterator or cancelling the task stops the work.

        A chat that is too long or that its template refuses, and a schema or grammar that cannot be enforced, show with
        the first piece, since the loop must not wait for what finds them.
        """
        return self._apieces(messages, RequestSettings.of(alignment, options, whole=False))

    def encode(self, text: str, *, cache_salt: str | None = None) -> list[int]:
        """Token ids of plain text; special tokens are neither added nor recognised. The salt is as in `generate`."""
        return self._tokenizer.with_salt(hash_salt(cache_salt)).encode(text)

    def count_prompt_tokens(
        self,
        messages: Sequence[Message],
        *,
        output: Output = Output(),  # noqa: B008 - frozen
        template_kwargs: Mapping[str, TemplateValue] = MappingProxyType({}),
        cache_salt: str | None = None,
    ) -> int:
        """Tokens of the base prompt that these messages become, with the output's tools and schema where it has any.

        They may be more than the context window holds. Arguments are those of `generate`.

        Raises:
            MessageError, ConfigError: the input is malformed.
        """
        tokenizer = self._tokenizer.with_template_kwargs(template_kwargs).with_salt(hash_salt(cache_salt))
        return make_contexts(messages, None, tokenizer, output=output).prompt_tokens()

    def stats(self) -> EngineStats:
        """What the engine is doing now, and what it has done so far, in numbers: for metrics. Costs next to nothing."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Stop all work, end the worker thread and let go of the model. Requests from here on are refused."""
        self._closed = True
        _loaded.forget(self)  # before the work has ended: nobody else shall get an engine that is being closed
        self._scheduler.close()
        self._runner.release()
        self._adapters.release()
        self._weights.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # what is copied shares the engine: its weights, its thread

    def __repr__(self) -> str:
        device, dtype = self._runner.place
        return f"{type(self).__name__}({self.name!r}, device={device!r}, dtype=torch.{dtype})"

    def _pieces(self, messages: Sequence[Message], settings: RequestSettings) -> Generator[Piece, None, None]:
        self._warn(settings)
        return self._stream(self._request(messages, settings), settings.deadline())

    def _apieces(self, messages: Sequence[Message], settings: RequestSettings) -> AsyncGenerator[Piece, None]:
        self._warn(settings)
        return self._astream(normalise_messages(messages), settings, settings.deadline())

    def _request(self, messages: Sequence[Message], settings: RequestSettings) -> Request:
        output = settings.output
        messages = read_messages(messages, self._tokenizer.pictures)
        tokenizer = self._tokenizer.with_template_kwargs(settings.template_kwargs).with_salt(settings.salt)
        prompt = self._prompt(settings, tokenizer, messages, settings.sampling.max_new_tokens)
        answer_format, ending = self._tokenizer.answer_format, prompt_end(prompt.contexts, self._tokenizer)
        thought_is_open = answer_format.opens_thought(ending)
        request = Request(
            messages=messages,
            settings=settings,
            prompt=prompt,
            tokenizer=tokenizer,
            eos_token_ids=self._loaded_model.eos_token_ids,
            proposals=0 if self._runner.state_cost else self._settings.proposals,
            token_cost=self._runner.token_cost,
            grammar=output.grammar(answer_format.behind(ending), thought_is_open=thought_is_open),
            response_template=answer_format.template(with_tools=bool(output.callable_tools)),
            answer_prefix=answer_format.thought_begin if thought_is_open else "",
            thought_closing=self._thought_closing(settings),
        )
        self._compile(request)
        return request

    def _thought_closing(self, settings: RequestSettings) -> tuple[int, ...]:
        """The tokens of the marker that closes a thought, where a request limits it.

        Raises:
            ConfigError: what closes a thought of this model is no plain marker.
        """
        most, answer_format = settings.sampling.max_reasoning_tokens, self._tokenizer.answer_format
        if most is None or not answer_format.thinks:
            return ()
        if not closes_thoughts(answer_format.template(with_tools=False), answer_format.thought_end):
            raise ConfigError(
                f"Sampling.max_reasoning_tokens={most} cannot be kept: what closes a thought of this model is no plain "
                f"marker that could be written for it. Leave it out, and limit thought and answer together by "
                f"max_new_tokens.",
                field="max_reasoning_tokens",
            )
        return tuple(self._tokenizer.encode_answer(answer_format.thought_end))

    def _warn(self, settings: RequestSettings) -> None:
        """Of what a request asks for in vain."""
        self._constraints.warn_of(settings.output.left_out)
        if (most := settings.sampling.max_reasoning_tokens) is not None and not self.thinks:
            warn_user(
                f"Sampling.max_reasoning_tokens={most} changes nothing in this answer, since the model does not think. "
                f"Leave it out.",
                NoEffectWarning,
            )

    def _revise(self, request: Request) -> Revising | None:
        """The revisions of the base response; None where the answer is not one of them."""
        if not request.revises or request.accepted:
            return None
        make_prompt = partial(self._prompt, request.settings, request.tokenizer)
        return request.revise(make_prompt, room=self._cache_tokens)

    def _prompt(
        self,
        settings: RequestSettings,
        tokenizer: SafeTokenizer,
        messages: Sequence[Message],
        most: int,
        answers: int = 1,
    ) -> PromptState:
        """The prompt of a chat in which answers to a request are decoded, each of `most` tokens at most."""
        contexts = make_contexts(
            messages,
            settings.alignment,
            tokenizer,
            placement=settings.steering.placement,
            output=settings.output,
            context_window=self.context_window,
        )
        most = min(most, self.context_window - contexts.longest_prompt)
        return PromptState(
            contexts,
            most,
            copies=answers,
            state_cost=self._scheduler.state_cost,
            adapter=self._adapters.get(settings.adapter),
            salt=settings.salt,
        )

    def _text_scorer(
        self,
        deadline: float | None,
        *,
        admitted: bool = False,
        adapter: str | None = None,
        salt: bytes | None = None,
    ) -> TextScorer:
        return TextScorer(
            self._scheduler,
            self._tokenizer.with_salt(salt),
            self.context_window,
            description=self.describe() | ({} if adapter is None else {"adapter": adapter}),
            deadline=deadline,
            admitted=admitted,
            adapter=self._adapters.get(adapter),
        )

    def _model_of(self, request: Request, deadline: float | None) -> TextScorer:
        """What the evaluators of a request may ask: the model that answers it."""
        settings = request.settings
        return self._text_scorer(deadline, admitted=True, adapter=settings.adapter, salt=settings.salt)

    def _compile(self, request: Request) -> None:
        """Make the request's grammar and token categories ready; the first ones of an engine take a second."""
        if request.grammar is not None:
            request.constraint = self._constraints.compile(request.grammar)
            if request.text_grammar is not None:
                request.text_form = self._constraints.compile(request.text_grammar)
        request.critical_tokens = self._categories.mask(request.settings.steering.critical_categories)

    def _stream(self, request: Request, deadline: float | None) -> Generator[Piece, None, None]:
        with self._scheduler.admitted():
            for task in request.evaluation_tasks():
                for _ in self._scheduler.events(task, deadline):
                    pass
            if request.wants_score:
                with request.verdict() as verdict:
                    evaluation = request.evaluation_request(self._model_of(request, deadline))
                    verdict.score = request.settings.steering.evaluator.evaluate(evaluation)
            if (revising := self._revise(request)) is not None:
                for _ in self._scheduler.events(revising.task, deadline):
                    pass
                evaluations = revising.evaluations(self._model_of(request, deadline))
                with revising.choice(evaluations) as scores:
                    for one in evaluations:
                        scores.append(None if one is None else revising.chooser.evaluate(one))
            if request.accepted or request.revises:
                yield request.whole_piece()
                return
            with closing(self._scheduler.events(request.steered_task(), deadline)) as events:
                for event in events:
                    yield request.piece(event)

    async def _astream(
        self, messages: Sequence[Message], settings: RequestSettings, deadline: float | None
    ) -> AsyncGenerator[Piece, None]:
        with self._scheduler.admitted():
            apart = Apart(messages, settings)
            request = await apart.run(self._request, messages, settings)
            apart.release = request.prompt.release
            tasks = request.evaluation_tasks()
            while (task := await apart.run(next, tasks, None)) is not None:
                async with aclosing(self._scheduler.aevents(task, deadline)) as events:
                    async for _ in events:
                        pass
            if request.wants_score:
                with request.verdict() as verdict:
                    evaluation = request.evaluation_request(self._model_of(request, deadline))
                    verdict.score = await request.settings.steering.evaluator.aevaluate(evaluation)
            if (revising := await apart.run(self._revise, request)) is not None:
                async with aclosing(self._scheduler.aevents(revising.task, deadline)) as events:
                    async for _ in events:
                        pass
                evaluations = revising.evaluations(self._model_of(request, deadline))
                with revising.choice(evaluations) as scores:
                    for one in evaluations:
                        scores.append(None if one is None else await revising.chooser.aevaluate(one))
            if request.accepted or request.revises:
                yield request.whole_piece()
                return
            task = await apart.run(request.steered_task)
            async with aclosing(self._scheduler.aevents(task, deadline)) as events:
                async for event in events:
                    yield request.piece(event)
