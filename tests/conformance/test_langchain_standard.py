"""LangChain's own suites for chat models, over ChatSDA: the unit suite, and the integration suite on the real model."""

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.conformance.langchain_suite import CALLS_TOOLS, ChatSDASuite
from tests.sizes import size


class TestChatSDAUnit(ChatSDASuite, ChatModelUnitTests):
    """The unit suite. It never asks for an answer, so the model's weights are never loaded."""


# Here the model has to call a tool of its own choice, or with what the question says
LONG = (
    "agent_loop",
    "bind_runnables_as_tools",
    "tool_choice",
    "tool_calling",
    "tool_calling_async",
    "unicode_tool_call_integration",
)


@pytest.mark.slow
class TestChatSDAIntegration(ChatSDASuite, ChatModelIntegrationTests):
    """The integration suite on the real model, greedy; answers are short where no call has to be complete."""

    @pytest.fixture(autouse=True)
    def choose_length(self, request: pytest.FixtureRequest) -> None:
        is_long = request.node.originalname in [f"test_{name}" for name in LONG]
        self.max_tokens = 64 if is_long else size(64, 24)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        settings = {"dtype": "float32", "temperature": 0}  # the same on every processor
        return {"model": "smollm2-135m", "alignment": CALLS_TOOLS, "max_tokens": self.max_tokens, **settings}
