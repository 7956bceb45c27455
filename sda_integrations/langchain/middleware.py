"""SDAMiddleware: the alignment of an agent's model calls."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from sda_engine import Alignment
from sda_engine.adapting import override_settings
from sda_engine.errors import ConfigError
from sda_engine.request_settings import RequestSettings

AlignmentChoice = Callable[[ModelRequest[Any]], Alignment | str | None]


class SDAMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives every model call of an agent an alignment, and other settings of ChatSDA.

    ```python
    agent = create_agent(ChatSDA(), tools, middleware=[SDAMiddleware("honesty", gain=3.0)])
    ```

    Args:
        alignment: what ChatSDA takes, or a function from the ModelRequest to that, e.g. to read the user from
            `request.runtime.context`.
        settings: call keywords of ChatSDA by name: gain, amplification, evaluator, steering, temperature, ...

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    def __init__(self, alignment: Alignment | str | AlignmentChoice | None, **settings: object) -> None:
        super().__init__()
        self._alignment = alignment
        self._settings: Mapping[str, object] = settings
        if "alignment" in settings or "output" in settings:
            raise ConfigError("SDAMiddleware takes the alignment first, and the form of answers from the agent.")
        given = dict(settings) if callable(alignment) else {**settings, "alignment": alignment}
        override_settings(RequestSettings(), given, owner="SDAMiddleware")

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Hand the settings to the model with the call's own."""
        return handler(self._steered(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """The same for an event loop."""
        return await handler(self._steered(request))

    def _steered(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        alignment = self._alignment(request) if callable(self._alignment) else self._alignment
        return request.override(model_settings={**request.model_settings, **self._settings, "alignment": alignment})
