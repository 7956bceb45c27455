"""SDA for LangChain: ChatSDA is a chat model whose answers are steered while they are decoded."""

try:
    import langchain_core  # noqa: F401 - by name, so that its absence is told apart from an error of our own
except ImportError as error:
    raise ImportError(
        "sda_integrations.langchain needs langchain-core, which is not installed. "
        "Install it with: pip install 'sda-integrations[langchain]'",
        name="langchain_core",
    ) from error

from sda_integrations.langchain.chat_model import ChatSDA

__all__ = ["ChatSDA"]
