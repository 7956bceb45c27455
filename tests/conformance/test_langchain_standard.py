"""LangChain's own suite for chat models, over ChatSDA."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from sda_integrations.langchain import ChatSDA


class TestChatSDAUnit(ChatModelUnitTests):
    """The unit suite. It never asks for an answer, so the model's weights are never loaded."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSDA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m", "alignment": "honesty"}

    @property
    def has_tool_calling(self) -> bool:
        return False  # bind_tools says that tools come in a later release

    @property
    def has_structured_output(self) -> bool:
        return False  # with_structured_output says the same

    @property
    def supports_model_override(self) -> bool:
        return False  # one ChatSDA, one model
