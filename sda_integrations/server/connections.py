"""Clients that go away while somebody works for them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client has closed its connection, and nobody waits for the answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What some work comes to, which is cancelled as soon as the client is gone, and has ended when this returns.

    Args:
        receive: of the connection; the body of the request has been read from it.
        work: what is done for the client.

    Raises:
        ClientGoneError: it went away first.
        Exception: whatever the work raises.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_end(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
