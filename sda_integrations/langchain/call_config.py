"""The alignment of a call from its config: `config["configurable"]["sda_alignment"]`, wherever in a chain or graph.

A chain, a graph or an agent hands its config down to every model in it, so one entry reaches them all. It becomes
the call's `alignment` keyword, by which it enters cache keys and traces too. Both are resolved here, once for a call,
since LangChain asks for a call's settings several times.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig, ensure_config

from sda_engine.alignment import resolve_alignment
from sda_engine.settings import unknown_name

ALIGNMENT_KEY = "sda_alignment"
_PREFIX = "sda_"


def with_configured_alignment(config: RunnableConfig | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """A call's keywords, with the alignment of its config where the call names none; it is resolved.

    Args:
        config: the call's own config; that of the surrounding chain or graph is looked at as well.
        keywords: the call's keywords.

    Raises:
        ConfigError: the config has a key sda_... that does not exist, or the alignment is none.
    """
    configurable = ensure_config(config).get("configurable", {})
    for name in configurable:
        if isinstance(name, str) and name.startswith(_PREFIX) and name != ALIGNMENT_KEY:
            raise unknown_name('config["configurable"]', name, [ALIGNMENT_KEY], "key")
    if ALIGNMENT_KEY in configurable and "alignment" not in keywords:
        keywords = {**keywords, "alignment": configurable[ALIGNMENT_KEY]}
    return with_resolved_alignment(keywords)


def with_resolved_alignment(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """A call's keywords, with an Alignment in place of what stands for one.

    Raises:
        ConfigError: it is neither text nor Alignment.
    """
    if "alignment" not in keywords:
        return dict(keywords)
    return {**keywords, "alignment": resolve_alignment(keywords["alignment"])}


class ReadsCallConfig(BaseChatModel):
    """Every public way into a chat model, with the config's alignment as the call's keyword."""

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """One answer to each of several chats."""
        return super().generate(messages, *args, **with_resolved_alignment(kwargs))

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """One answer to each of several chats, for an event loop."""
        return await super().agenerate(messages, *args, **with_resolved_alignment(kwargs))

    def batch(self, inputs: list[LanguageModelInput], *args: Any, **kwargs: Any) -> list[AIMessage]:
        """One answer to each of several inputs."""
        return super().batch(inputs, *args, **with_resolved_alignment(kwargs))

    async def abatch(self, inputs: list[LanguageModelInput], *args: Any, **kwargs: Any) -> list[AIMessage]:
        """One answer to each of several inputs, for an event loop."""
        return await super().abatch(inputs, *args, **with_resolved_alignment(kwargs))

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """One answer."""
        return super().invoke(input, config, **with_configured_alignment(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """One answer, for an event loop."""
        return await super().ainvoke(input, config, **with_configured_alignment(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """One answer in chunks."""
        return super().stream(input, config, **with_configured_alignment(config, kwargs))

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """One answer in chunks, for an event loop."""
        return super().astream(input, config, **with_configured_alignment(config, kwargs))

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """One answer as events."""
        return super().stream_events(input, config, **with_configured_alignment(config, kwargs))

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """One answer as events, for an event loop."""
        return super().astream_events(input, config, **with_configured_alignment(config, kwargs))
