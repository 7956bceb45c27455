"""What is bound to a ChatSDA stays bound when tools or a schema are bound after it."""

from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import _ChatModelBinding
from langchain_core.runnables import Runnable

from sda_engine.adapting import OUTPUT_KEYWORDS


class ChatSDABinding(_ChatModelBinding):  # type: ignore[no-redef]  # LangChain's own shares this oddity
    """`ChatSDA.bind(...)`. LangChain's own binding forgets its keywords at a later `bind_tools`; this one does not."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """ChatSDA.bind_tools with the bound keywords; those given here come first, and tools bound before are gone."""
        return self._again(self._chat().bind_tools(tools, **{**self._kept(), **kwargs}))

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """ChatSDA.with_structured_output with the bound keywords; those given here come first."""
        return self._again(self._chat().with_structured_output(schema, **{**self._kept(), **kwargs}))

    def _chat(self) -> Any:
        return self.bound

    def _kept(self) -> dict[str, Any]:
        """The bound keywords, without what a new form of the answer stands in for."""
        replaced = (*OUTPUT_KEYWORDS, "ls_structured_output_format")
        return {name: value for name, value in self.kwargs.items() if name not in replaced}

    def _again(self, runnable: Runnable[LanguageModelInput, Any]) -> Runnable[LanguageModelInput, Any]:
        """The runnable with this binding's config, if it has one."""
        return runnable.with_config(self.config) if self.config else runnable
