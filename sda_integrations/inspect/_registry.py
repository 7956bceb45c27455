"""What Inspect's entry point loads: the name of the provider, and where it is. The engine is imported at first use."""

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="sda")
def sda() -> type[ModelAPI]:
    """The model provider `sda/<model>`."""
    from sda_integrations.inspect.provider import SDAModelAPI

    return SDAModelAPI
