"""LangChain's own suites for chat models, over ChatSDA: the unit suite, and the integration suite on the real model.

Both run twice: with the model in this process, and with one that `sda serve` has in another.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from sda_engine.models.loading import ALIASES
from sda_integrations.langchain import ChatSDA
from tests.servers import sda_serve
from tests.sizes import size

# A 135M model does not choose to call a tool when it is merely told how. Steered towards it, it does.
CALLS_TOOLS = "Begin your answer with <tool_call>"


def gguf_file() -> str:
    """The small model under another name: the path of the file that its package carries."""
    alias = ALIASES["smollm2-135m"]
    spec = importlib.util.find_spec(alias.package)
    assert spec is not None, "make setup installs it"
    (folder,) = spec.submodule_search_locations or ()
    return str(Path(folder) / alias.gguf_file)


KEY = "a-key-0123456789"


class ChatSDASuite:
    """What both suites are told of ChatSDA."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSDA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m", "alignment": "honesty"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return gguf_file()


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


class OverServer:
    """What both suites are told of ChatSDA where a server has the model."""

    url = "http://127.0.0.1:1"  # where nobody answers

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": f"{self.url}/v1", "api_key": KEY, "model": "smollm2-135m", "alignment": "honesty"}

    @property
    def model_override_value(self) -> str:
        return "smollm2-135m:empathy"  # the same model under its alias


class TestChatSDAUnitOverServer(OverServer, ChatSDASuite, ChatModelUnitTests):
    """The unit suite over a server, of which nothing is asked."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`sda serve` with the real model."""
    with sda_serve("smollm2-135m", "--dtype", "float32", "--api-key", KEY) as url:
        yield url


@pytest.mark.slow
class TestChatSDAIntegrationOverServer(OverServer, ChatSDASuite, ChatModelIntegrationTests):
    """The integration suite over `sda serve`."""

    @pytest.fixture(autouse=True)
    def ask_server(self, request: pytest.FixtureRequest, server: str) -> None:
        is_long = request.node.originalname in [f"test_{name}" for name in LONG]
        self.url, self.max_tokens = server, 64 if is_long else size(64, 8)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "alignment": CALLS_TOOLS, "max_tokens": self.max_tokens, "temperature": 0}
