"""Streams of responses that end properly, also when their reader leaves early.

LlamaIndex's callback decorators wrap a method's stream in one of their own, which takes a close() for a
failure: it reports an exception, sends no end event, and leaves the stream below it to the garbage collector.
So the streams here pass a flag by the decorators: `ends_when_closed`, above them, catches the close and
raises the flag; the stream below sees it, closes the engine's stream and ends, and the decorators report an
ordinary end with the partial answer. A generator that has not begun runs nothing at its close, so the one above
is brought to its first pause before it is handed out.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from sda_engine.results import Piece
from sda_integrations.llama_index.responses import Answer, GrowingAnswer

Response = TypeVar("Response")


class Reader:
    """Whoever reads a stream.

    Attributes:
        left: whether they have closed it.
    """

    def __init__(self) -> None:
        self.left = False


_reader: ContextVar[Reader] = ContextVar("the reader of the stream that is being opened")


def ends_when_closed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a streaming method, sync or async, above LlamaIndex's callback decorator."""

    @wraps(method)
    def open_stream(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        reader = Reader()
        token = _reader.set(reader)
        try:
            responses = method(*args, **kwargs)
        finally:
            _reader.reset(token)
        stream = _until_closed(responses, reader)
        next(stream)
        return stream

    @wraps(method)
    async def open_async_stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        reader = Reader()
        token = _reader.set(reader)
        try:
            responses = await method(*args, **kwargs)
        finally:
            _reader.reset(token)
        stream = _until_closed_async(responses, reader)
        await anext(stream)
        return stream

    return open_async_stream if inspect.iscoroutinefunction(method) else open_stream


def stream_responses(
    pieces: Generator[Piece, None, None], model: str, respond: Callable[[Answer], Response]
) -> Generator[Response, None, None]:
    """The engine's pieces as responses. Only for methods under `ends_when_closed`."""
    return _respond(pieces, model, respond, _reader.get())


def astream_responses(
    pieces: AsyncGenerator[Piece, None], model: str, respond: Callable[[Answer], Response]
) -> AsyncGenerator[Response, None]:
    """The same for an asynchronous stream."""
    return _respond_async(pieces, model, respond, _reader.get())


def _respond(
    pieces: Generator[Piece, None, None], model: str, respond: Callable[[Answer], Response], reader: Reader
) -> Generator[Response, None, None]:
    growing = GrowingAnswer(model)
    with closing(pieces):
        if reader.left:
            yield respond(growing.so_far())
            return
        for piece in pieces:
            if (answer := growing.add(piece)) is not None:
                yield respond(answer)
            if reader.left:
                return


async def _respond_async(
    pieces: AsyncGenerator[Piece, None], model: str, respond: Callable[[Answer], Response], reader: Reader
) -> AsyncGenerator[Response, None]:
    growing = GrowingAnswer(model)
    async with aclosing(pieces):
        if reader.left:
            yield respond(growing.so_far())
            return
        async for piece in pieces:
            if (answer := growing.add(piece)) is not None:
                yield respond(answer)
            if reader.left:
                return


def _until_closed(responses: Generator[Response, None, None], reader: Reader) -> Generator[Response | None, None, None]:
    try:
        yield None
        for response in responses:  # noqa: UP028 - `yield from` would hand the close on to the decorators
            yield response
    except GeneratorExit:
        reader.left = True
        for _ in responses:
            pass
        raise


async def _until_closed_async(
    responses: AsyncGenerator[Response, None], reader: Reader
) -> AsyncGenerator[Response | None, None]:
    try:
        yield None
        async for response in responses:
            yield response
    except GeneratorExit:
        reader.left = True
        async for _ in responses:
            pass
        raise
