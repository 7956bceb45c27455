"""Apart: what an event loop must not wait for, in threads."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from sda_engine.contents import has_pictures, plain_text
from sda_engine.prompts import Message
from sda_engine.request_settings import RequestSettings

_LONG = 2000  # characters of a chat that take 10 ms or so to render, encode and look through

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Apart:
    """Runs calls of one request in threads where its texts are long, or pictures are to be read, or a form compiled.

    Where neither is so it runs them at once, so that short requests come in their order.

    Args:
        messages: the chat, normalised.
        settings: what the request asks for.

    Attributes:
        release: is called where somebody cancels meanwhile, since nobody will use what comes of the call.
    """

    def __init__(self, messages: Sequence[Message], settings: RequestSettings) -> None:
        output = settings.output
        compiles = output.constraint is not None or output.callable_tools or settings.steering.critical_categories
        long = sum(len(plain_text(message["content"])) for message in messages) > _LONG
        self._is_long = bool(compiles) or long or has_pictures(messages)
        self.release: Callable[[], None] = lambda: None

    async def run(
        self, call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        """What the call returns, or raises."""
        if not self._is_long:
            return call(*args, **kwargs)
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except BaseException:
            self.release()
            raise
