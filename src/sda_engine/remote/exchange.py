"""One request to a server and its reply: its deadline, its tries, and what comes as it comes."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import httpx2
import openai
from openai._types import RequestOptions
from pydantic import BaseModel
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from sda_engine.errors import RequestTimeoutError
from sda_engine.remote.failures import FAULTS, Explainer, is_passing
from sda_engine.servers import retry_after

_BACKOFF = wait_exponential(multiplier=0.25, max=8.0) + wait_random(0.0, 0.25)  # seconds
_MARGIN = 0.5  # seconds after the deadline in which the server's own error may still come
_LEAST = 0.001  # seconds; a server takes no timeout of 0

_Reply = TypeVar("_Reply", bound=BaseModel)
MakeBody = Callable[[float | None], Mapping[str, object]]
"""Makes a request's body for the seconds that are left of its time; None where that has no limit."""


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Exchange:
    """What is sent, and how long it may take.

    Attributes:
        path: below the API's root, or a whole address of the same server.
        explainer: turns what fails into errors of ours.
        body: makes what is posted; None for a request that posts nothing.
        deadline: in seconds of time.monotonic(); None for no limit.
        max_retries: further tries, where nothing has come yet and another one may succeed.
        heard: the text of the answer as far as it came.
        request_id: what the server's log calls the request.
    """

    path: str
    explainer: Explainer
    body: MakeBody | None = None
    deadline: float | None = None
    max_retries: int = 2
    heard: Callable[[], str] = _nothing
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def read(self, client: openai.AsyncOpenAI, kind: type[_Reply]) -> _Reply:
        """The whole reply.

        Raises:
            SDAError: what the server told of, or why there is no such reply.
        """
        async with self._reply(client) as response:
            return kind.model_validate_json(await response.aread())

    async def events(self, client: openai.AsyncOpenAI, kind: type[_Reply]) -> AsyncGenerator[_Reply, None]:
        """The events of the reply, up to the one that says that there are no more.

        Raises:
            SDAError: as for `read`.
        """
        async with self._reply(client) as response:
            async for event in openai.AsyncStream[object](cast_to=object, response=response, client=client):
                yield kind.model_validate(event)

    @asynccontextmanager
    async def _reply(self, client: openai.AsyncOpenAI) -> AsyncGenerator[httpx2.Response, None]:
        """The reply, once its head has come. However the block is left, its connection is free or closed then."""
        began = False
        try:
            async with asyncio.timeout_at(None if self.deadline is None else self.deadline + _MARGIN):
                response = await self._open(client)
                began = True
                try:
                    yield response
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise RequestTimeoutError(
                "The server did not answer within the request's timeout. Allow more seconds (timeout=...), ask for "
                "fewer tokens (max_new_tokens), or send fewer requests at a time."
            ) from error
        except FAULTS as error:
            raise self.explainer.explain(
                error, request_id=self.request_id, began=began, partial=self.heard()
            ) from error

    async def _open(self, client: openai.AsyncOpenAI) -> httpx2.Response:
        """The reply's head. A wait that would pass the deadline is not begun: what failed before it is raised."""
        left = self._seconds_left()
        stop = stop_after_attempt(self.max_retries + 1)
        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(is_passing),
            wait=_wait,
            stop=stop if left is None else stop | stop_before_delay(left),
            reraise=True,
        )
        return await retrying(self._send, client)

    async def _send(self, client: openai.AsyncOpenAI) -> httpx2.Response:
        options: RequestOptions = {"headers": {"x-request-id": self.request_id}}
        raw = httpx2.Response  # which the SDK hands out as it is, and unread since it is asked for a stream
        kind = openai.AsyncStream[object]
        if self.body is None:
            head = await client.get(self.path, cast_to=raw, options=options, stream=True, stream_cls=kind)
        else:
            body = self.body(self._seconds_left())
            head = await client.post(self.path, cast_to=raw, body=body, options=options, stream=True, stream_cls=kind)
        return cast(httpx2.Response, head)

    def _seconds_left(self) -> float | None:
        return None if self.deadline is None else max(_LEAST, self.deadline - time.monotonic())


def _wait(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    return max(retry_after(failure) or 0.0, _BACKOFF(state))
