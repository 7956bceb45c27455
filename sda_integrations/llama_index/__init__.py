"""SDA for LlamaIndex: `SDALLM`, a drop-in LLM that decodes every answer with an alignment."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "sda_integrations.llama_index needs llama-index-core, which is not installed. "
        "Install it with: pip install 'sda-integrations[llama-index]'"
    ) from error

from typing import TYPE_CHECKING, Any

from sda_integrations.llama_index.call_settings import call_settings
from sda_integrations.llama_index.llm import SDALLM

if TYPE_CHECKING:
    from sda_integrations.llama_index.evaluator import LLMEvaluator

__all__ = ["SDALLM", "LLMEvaluator", "call_settings"]


def __getattr__(name: str) -> Any:
    if name != "LLMEvaluator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sda_integrations.llama_index.evaluator import LLMEvaluator  # it brings the OpenAI SDK, a second of imports

    return LLMEvaluator
