"""LangChain's own suites for chat models, over ChatSDA: the unit suite, and the integration suite on the real model."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from sda_engine import SteeringEngine
from sda_engine.models.loading import ALIASES
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from tests.sizes import ALL

# A 135M model does not choose to call a tool when it is merely told how. Steered towards it, it does.
CALLS_TOOLS = "Begin your answer with <tool_call>"


def gguf_file() -> str:
    """The small model under another name: the path of the file that its package carries."""
    alias = ALIASES["smollm2-135m"]
    spec = importlib.util.find_spec(alias.package)
    assert spec is not None, "make setup installs it"
    (folder,) = spec.submodule_search_locations or ()
    return str(Path(folder) / alias.gguf_file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two tiny models on the disk."""
    paths = [str(tmp_path_factory.mktemp(name)) for name in ("tiny", "other")]
    for path in paths:
        tiny_model(context_window=8192).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
    yield paths
    for path in paths:
        SteeringEngine.load(path, dtype="float32").close()


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


class TestChatSDAIntegration(ChatSDASuite, ChatModelIntegrationTests):
    """The integration suite, greedy, on a tiny random model where that can do it.

    By `make endurance` all of it runs on the real model.
    """

    @pytest.fixture(autouse=True)
    def choose_model(self, request: pytest.FixtureRequest, folders: list[str]) -> None:
        self.is_real = ALL or "slow" in request.keywords
        self.folders = folders

    @property
    def chat_model_params(self) -> dict[str, Any]:
        settings = {"alignment": CALLS_TOOLS, "dtype": "float32", "temperature": 0}  # the same on every processor
        if self.is_real:
            return {"model": "smollm2-135m", "max_tokens": 64, **settings}
        return {"model": self.folders[0], "max_tokens": 100, **settings}  # of about two letters each

    @property
    def model_override_value(self) -> str:
        return gguf_file() if self.is_real else self.folders[1]


# Here the model has to call a tool of its own choice, or with what the question says
for name in ("agent_loop", "tool_calling", "tool_calling_async", "unicode_tool_call_integration"):
    pytest.mark.slow(getattr(TestChatSDAIntegration, f"test_{name}"))
