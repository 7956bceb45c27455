"""SDAMiddleware: the alignment of an agent's model calls."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from sda_engine.adapting import STEERING_KEYWORDS, override_settings
from sda_engine.alignment import AlignmentLike, resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.request_settings import RequestSettings

AlignmentChoice = Callable[[ModelRequest[Any]], AlignmentLike | None]


class SDAMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives every model call of an agent an alignment, and other settings of ChatSDA.

    ```python
    agent = create_agent(ChatSDA(), tools, middleware=[SDAMiddleware("honesty", gain=3.0)])
    ```

    Args:
        alignment: what ChatSDA takes, or a function from the ModelRequest to that, e.g. to read the user from
            `request.runtime.context`.
        settings: call keywords of ChatSDA by name: gain, amplification, evaluator, steering, temperature, ... They come
            before the agent's own model settings. For a call whose alignment the function gives as None, gain,
            amplification and evaluator are left out.

    Raises:
        ConfigError: a setting is unknown, out of range, or without effect since the alignment is None.
    """

    def __init__(self, alignment: AlignmentLike | AlignmentChoice | None, **settings: object) -> None:
        super().__init__()
        if "alignment" in settings or "output" in settings:
            raise ConfigError("SDAMiddleware takes the alignment first, and the form of answers from the agent.")
        given = override_settings(RequestSettings(), settings, owner="SDAMiddleware")
        self._alignment = alignment if callable(alignment) else resolve_alignment(alignment)
        self._settings: Mapping[str, object] = settings
        self._plain_settings = {name: value for name, value in settings.items() if name not in STEERING_KEYWORDS}
        if settings.get("steering") is not None:
            self._plain_settings["steering"] = given.steering.fitting(None)
        if self._alignment is None and (idle := given.steering.idle_for(None)):
            raise ConfigError(
                f"SDAMiddleware(None, ...) asks for plain answers, in which {', '.join(idle)} would change nothing: "
                f"leave it out, or name an alignment."
            )

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
        settings = self._plain_settings if alignment is None else self._settings
        return request.override(model_settings={**request.model_settings, **settings, "alignment": alignment})
