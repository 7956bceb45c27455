"""SDA for Inspect AI: the model provider `sda/<model>`, whose answers are steered while they are decoded."""

try:
    import inspect_ai  # noqa: F401 - by name, so that its absence is told apart from an error of our own
except ImportError as error:
    raise ImportError(
        "sda_integrations.inspect needs inspect-ai, which is not installed. "
        "Install it with: pip install 'sda-integrations[inspect]'",
        name="inspect_ai",
    ) from error

from typing import TYPE_CHECKING, Any

from sda_integrations.inspect._registry import sda

if TYPE_CHECKING:
    from sda_integrations.inspect.evaluators import SimulatedEvaluator
    from sda_integrations.inspect.provider import SDAModelAPI

__all__ = ["SDAModelAPI", "SimulatedEvaluator", "sda"]


def __getattr__(name: str) -> Any:
    # They bring the engine, seconds of imports, which Inspect's own commands need not wait for
    if name == "SDAModelAPI":
        from sda_integrations.inspect.provider import SDAModelAPI

        return SDAModelAPI
    if name == "SimulatedEvaluator":
        from sda_integrations.inspect.evaluators import SimulatedEvaluator

        return SimulatedEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
