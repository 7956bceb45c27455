"""SDA for LangChain: ChatSDA is a chat model whose answers are steered while they are decoded."""

try:
    import langchain_core  # noqa: F401 - by name, so that its absence is told apart from an error of our own
except ImportError as error:
    raise ImportError(
        "sda_integrations.langchain needs langchain-core, which is not installed. "
        "Install it with: pip install 'sda-integrations[langchain]'",
        name="langchain_core",
    ) from error

from typing import TYPE_CHECKING, Any

from sda_integrations.langchain.chat_model import ChatSDA

if TYPE_CHECKING:
    from sda_integrations.langchain.evaluator import ChatModelEvaluator
    from sda_integrations.langchain.middleware import SDAMiddleware

__all__ = ["ChatModelEvaluator", "ChatSDA", "SDAMiddleware"]


def __getattr__(name: str) -> Any:
    if name == "ChatModelEvaluator":  # it brings the OpenAI SDK's errors, a second of imports
        from sda_integrations.langchain.evaluator import ChatModelEvaluator

        return ChatModelEvaluator
    if name != "SDAMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sda_integrations.langchain.middleware import SDAMiddleware
    except ImportError as error:  # ChatSDA needs langchain-core alone; agents need langchain
        raise ImportError(
            "SDAMiddleware needs langchain, which is not installed. "
            "Install it with: pip install 'sda-integrations[agents]'",
            name="langchain",
        ) from error
    return SDAMiddleware
