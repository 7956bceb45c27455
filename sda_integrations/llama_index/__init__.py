"""SDA for LlamaIndex: `SDALLM`, a drop-in LLM that decodes every answer with an alignment."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "sda_integrations.llama_index needs llama-index-core, which is not installed. "
        "Install it with: pip install 'sda-integrations[llama-index]'"
    ) from error

from sda_integrations.llama_index.call_settings import call_settings
from sda_integrations.llama_index.llm import SDALLM

__all__ = ["SDALLM", "call_settings"]
