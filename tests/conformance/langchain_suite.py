"""What LangChain's suites are told of ChatSDA, over an engine in this process and over a server."""

import importlib.util
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from sda_engine.models.loading import ALIASES
from sda_integrations.langchain import ChatSDA

# A 135M model does not choose to call a tool when it is merely told how. Steered towards it, it does.
CALLS_TOOLS = "Begin your answer with <tool_call>"


def gguf_file() -> str:
    """The small model under another name: the path of the file that its package carries."""
    alias = ALIASES["smollm2-135m"]
    spec = importlib.util.find_spec(alias.package)
    assert spec is not None, "make setup installs it"
    (folder,) = spec.submodule_search_locations or ()
    return str(Path(folder) / alias.gguf_file)


class ChatSDASuite:
    """What both suites are told."""

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
