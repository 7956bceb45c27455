"""What the tests of the Inspect provider share."""

from inspect_ai.model import ChatMessageUser, GenerateConfig, ModelOutput

from sda_integrations.inspect import SDAModelAPI

HI = [ChatMessageUser(content="Hi")]


def api_of(engine, **arguments):
    """A provider over an engine at hand."""
    return SDAModelAPI(engine.name, engine=engine, **arguments)


async def ask(api, messages=HI, tools=(), tool_choice="none", **config) -> ModelOutput:
    """One call, as Inspect makes it."""
    output, _ = await api.generate(list(messages), list(tools), tool_choice, GenerateConfig(**config))
    return output
