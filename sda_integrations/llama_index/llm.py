"""SDALLM: LlamaIndex's LLM interface over the steering engine."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt as default_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection

from sda_engine import Piece
from sda_engine.adapting import describe_settings
from sda_engine.contents import has_pictures
from sda_engine.errors import MessageError
from sda_integrations.llama_index.messages import (
    PlainMessage,
    PlainToolCall,
    plain_messages,
    system_message,
    tool_calls,
    user_message,
)
from sda_integrations.llama_index.output import is_answer_itself, to_tool
from sda_integrations.llama_index.responses import (
    Answer,
    chat_response,
    completion_response,
    refuse_cut_off,
    refuse_misfit,
    whole_answer,
)
from sda_integrations.llama_index.streams import astream_responses, ends_when_closed, stream_responses
from sda_integrations.llama_index.structured import PredictsObjects, partial_json

if TYPE_CHECKING:
    from llama_index.core.tools import BaseTool


class SDALLM(PredictsObjects):
    """A model whose answers are steered towards an alignment while they are decoded.

    Everywhere in an application:

        from llama_index.core import Document, Settings, VectorStoreIndex
        from sda_integrations.llama_index import SDALLM

        llm = SDALLM(model="smollm2-135m", alignment="honesty")
        Settings.llm = llm
        Settings.tokenizer = llm.load().encode                  # LlamaIndex then counts this model's tokens
        Settings.embed_model = "local:BAAI/bge-small-en-v1.5"   # or any other
        index = VectorStoreIndex.from_documents([Document(text="The library opens at nine.")])
        print(index.as_query_engine().query("When does the library open?"))

    Chat, and what steering did:

        from llama_index.core.llms import ChatMessage

        llm = SDALLM(alignment="Answer as a careful librarian.", temperature=0.2, max_tokens=200)
        response = llm.chat([ChatMessage(role="user", content="Who wrote Faust?")])
        print(response.message.content, response.raw["finish_reason"], response.raw["usage"])
        print(response.raw["sda"])

    Streams, which stop the work when they are closed, and async:

        for chunk in llm.stream_complete("Who wrote Faust?"):
            print(chunk.delta, end="", flush=True)

        response = await llm.acomplete("Who wrote Faust?")
        async for chunk in await llm.astream_complete("Who wrote Faust?"):
            print(chunk.delta, end="", flush=True)

    Another alignment, strength or sampling for one call; `alignment=None` asks for a plain answer of the same
    model. The keywords are alignment, policy, evaluator, gain, amplification, steering, temperature, top_p,
    top_k, min_p, max_tokens, max_reasoning_tokens, stop, seed, logprobs, timeout and template_kwargs. What calls the
    LLM for you may have no argument for them: `call_settings` sets them for a block.

        llm.complete("My cat died.", alignment="empathy", gain=3.0, temperature=0, seed=7)
        llm.complete("My cat died.", alignment={"honesty": 1.0, "empathy": 0.5})  # several, by weight
        llm.complete("My cat died.", alignment=None)
        with call_settings(alignment="empathy"):
            index.as_query_engine().query("My cat died.")

    Tools, by `chat_with_tools`, `predict_and_call` and their kin, in a FunctionAgent or an AgentWorkflow. A
    grammar writes along, so that a call is always valid; the response's message holds it as a ToolCallBlock:

        agent = FunctionAgent(llm=llm, tools=[opening_hours], allow_parallel_tool_calls=False)
        await agent.run("When does the library open?")

    Objects, always of their class. The chat methods take `response_format` (a pydantic model or a JSON schema)
    and `constraint` (a sda_engine.Constraint) for the same, and `schema_in_prompt=False` keeps the schema from
    the prompt:

        llm.structured_predict(Person, PromptTemplate("{fact}"), fact="Ada is 36 years old.")
        llm.as_structured_llm(Person).complete("Ada is 36 years old.").raw

    The model is loaded at the first call, or by `load()`, once per process however many SDALLMs name it.
    `metadata` has to load it too, to tell the context window, unless `context_window` or `engine` is given.

    The constructor takes the same names, `model` and how to load it, or `engine`, and LlamaIndex's fields. With
    `base_url` the model is one that a server has loaded (`sda serve`), and `api_key` (or SDA_API_KEY) its key:

        llm = SDALLM(base_url="http://host:8000/v1", api_key=key, model="smollm2-135m", alignment="honesty")

    One that is None means the engine's default (see sda_engine.Steering and sda_engine.Sampling). A
    `system_prompt` reaches the model once with every call. What `completion_to_prompt` and
    `messages_to_prompt` return becomes the text of one user turn, inside the model's own chat template.

    Raises:
        ConfigError: a field or call keyword is unknown or out of range.
        SDAError: whatever else the engine refuses or fails to do, unchanged.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex knows this class by."""
        return "SDALLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans prompts by. Loads the model where only it can tell the context window.

        At least half of the window is left for prompts, however large `max_tokens` is; an answer takes what they leave.
        """
        window = self.context_window or self.load().context_window
        return LLMMetadata(
            context_window=window,
            num_output=min(self.request_settings().sampling.max_new_tokens, max(1, window // 2)),
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events and traces tell about this LLM: plain JSON without secrets. Never loads the model."""
        return {
            "class_name": self.class_name(),
            "model_name": self.model,
            **({} if self.base_url is None else {"base_url": self.base_url}),
            **self._origin(),
            **describe_settings(self.request_settings()),
        }

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat."""
        return chat_response(self._answer(self._chat_messages(messages), kwargs))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which becomes a user turn; a `formatted` one skips completion_to_prompt."""
        return completion_response(self._answer(self._completion_messages(prompt, formatted), kwargs))

    @ends_when_closed
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` in pieces; the last one carries `raw`."""
        return stream_responses(self._pieces(self._chat_messages(messages), kwargs), self.model, chat_response)

    @ends_when_closed
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` in pieces; the last one carries `raw`."""
        pieces = self._pieces(self._completion_messages(prompt, formatted), kwargs)
        return stream_responses(pieces, self.model, completion_response)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` for an event loop."""
        return chat_response(await self._aanswer(self._chat_messages(messages), kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` for an event loop."""
        return completion_response(await self._aanswer(self._completion_messages(prompt, formatted), kwargs))

    @ends_when_closed
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` for an event loop: await it, then iterate."""
        pieces = await self._apieces(self._chat_messages(messages), kwargs)
        return astream_responses(pieces, self.model, chat_response)

    @ends_when_closed
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`stream_complete` for an event loop: await it, then iterate."""
        pieces = await self._apieces(self._completion_messages(prompt, formatted), kwargs)
        return astream_responses(pieces, self.model, completion_response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls in a response; of one that is still being written, the arguments so far.

        Args:
            response: what a chat method gave.
            error_on_no_tool_call: whether to raise where there is none.

        Raises:
            IncompleteOutputError: there is none, since the answer reached max_tokens before its call was whole.
            InvalidOutputError: there is none that fits its tool's schema.
            ValueError: there is none, and that is an error.
        """
        calls = tool_calls(response.message)
        if not calls and (error_on_no_tool_call or response.message.additional_kwargs.get("invalid_tool_calls")):
            refuse_cut_off(response, "its tool call")
            refuse_misfit(response)
        if not calls and error_on_no_tool_call:
            raise ValueError(
                f"The answer calls no tool: {response.message.content!r}. Pass tool_required=True where it has to."
            )
        return [_selection(call) for call in calls]

    def _prepare_chat_with_tools(
        self,
        tools: Sequence["BaseTool"],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of a chat method for a chat with tools.

        The grammar keeps what is asked: with `tool_required` the answer is a call, with the name of a tool as
        `tool_choice` a call of that tool, without `allow_parallel_tool_calls` at most one call.
        """
        asked = [ChatMessage(role=MessageRole.USER, content=user_msg)] if isinstance(user_msg, str) else [user_msg]
        if tool_choice is None and tools and (tool_required or all(map(is_answer_itself, tools))):
            tool_choice = "required"
        return {
            "messages": [*(chat_history or []), *(message for message in asked if message is not None)],
            "tools": [to_tool(tool).as_function() for tool in tools],
            "tool_choice": tool_choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _answer(self, messages: list[PlainMessage], call: Mapping[str, object]) -> Answer:
        settings = self.request_settings(call)
        return whole_answer(self.load().generate(messages, **settings.arguments()), self.model)

    async def _aanswer(self, messages: list[PlainMessage], call: Mapping[str, object]) -> Answer:
        settings = self.request_settings(call)
        engine = await self.aload()
        return whole_answer(await engine.agenerate(messages, **settings.arguments()), self.model)

    def _pieces(self, messages: list[PlainMessage], call: Mapping[str, object]) -> Generator[Piece, None, None]:
        settings = self.request_settings(call)
        return self.load().stream(messages, **settings.arguments())

    async def _apieces(self, messages: list[PlainMessage], call: Mapping[str, object]) -> AsyncGenerator[Piece, None]:
        settings = self.request_settings(call)
        engine = await self.aload()
        return engine.astream(messages, **settings.arguments())

    def _chat_messages(self, messages: Sequence[ChatMessage]) -> list[PlainMessage]:
        """The chat for the engine, with the system prompt once: some of LlamaIndex's callers add it first."""
        if self.system_prompt and not any(_is_system_prompt(message, self.system_prompt) for message in messages):
            messages = self._extend_messages(list(messages))
        plain = plain_messages(messages)
        if self.messages_to_prompt in (None, default_messages_to_prompt):
            return plain
        if has_pictures(plain):
            raise MessageError(
                "messages_to_prompt makes one text of a chat, and these messages hold a picture, which is none. Leave "
                "messages_to_prompt out."
            )
        return [user_message(self.messages_to_prompt(messages))]

    def _completion_messages(self, prompt: str, formatted: bool) -> list[PlainMessage]:
        """The prompt for the engine, with the system prompt once: a formatted prompt may hold it already."""
        system = self.system_prompt
        if not formatted:
            if self.query_wrapper_prompt is not None:
                prompt = self.query_wrapper_prompt.format(query_str=prompt)
            if self.completion_to_prompt is not None:
                prompt = self.completion_to_prompt(prompt)
        elif system and system in prompt:
            system = None
        return [system_message(system), user_message(prompt)] if system else [user_message(prompt)]


def _is_system_prompt(message: ChatMessage, system_prompt: str) -> bool:
    return message.role in (MessageRole.SYSTEM, MessageRole.DEVELOPER) and message.content == system_prompt


def _selection(call: PlainToolCall) -> ToolSelection:
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str):
        arguments = partial_json(arguments)
    return ToolSelection(
        tool_id=str(call.get("id") or ""),
        tool_name=str(call["function"]["name"]),
        tool_kwargs=arguments if isinstance(arguments, dict) else {},
    )
