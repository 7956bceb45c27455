"""Answers as server-sent events: pieces of several answers as they come, and what a client reads of them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from pydantic import BaseModel

from sda_engine.results import Piece, Usage
from sda_integrations.server.asked import Writer

KEEP_ALIVE = b": the answer goes on\n\n"
"""A comment, which clients skip; it keeps those between from taking a silent connection for a dead one."""
DONE = b"data: [DONE]\n\n"

NumberedPiece = tuple[int, Piece]
"""A piece, after the number of the answer that it is of."""


async def pieces_as_they_come(
    streams: Sequence[AsyncGenerator[Piece, None]], patience: float
) -> AsyncGenerator[list[NumberedPiece], None]:
    """The pieces of several streams, those together that are there at the same time. All streams are read at once.

    Closing the generator ends the streams, and so does the first failure of one of them, which is raised as it is.

    Args:
        streams: one for each answer.
        patience: seconds without a piece after which there is an empty list.
    """
    inbox: asyncio.Queue[NumberedPiece | asyncio.Task[None]] = asyncio.Queue()

    async def read(number: int, stream: AsyncGenerator[Piece, None]) -> None:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                inbox.put_nowait((number, piece))

    readers = [asyncio.ensure_future(read(number, stream)) for number, stream in enumerate(streams)]
    for reader in readers:
        reader.add_done_callback(inbox.put_nowait)  # behind its pieces
    left = len(readers)
    try:
        while left:
            come = await _what_has_come(inbox, patience)
            pieces = [one for one in come if isinstance(one, tuple)]
            if pieces or not come:
                yield pieces
            for one in come:
                if not isinstance(one, tuple):
                    one.result()  # raises what it failed with
                    left -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _what_has_come(
    inbox: "asyncio.Queue[NumberedPiece | asyncio.Task[None]]", patience: float
) -> list[NumberedPiece | asyncio.Task[None]]:
    """All that is there, once there is something; nothing where that takes too long."""
    try:
        async with asyncio.timeout(patience):
            come = [await inbox.get()]
    except TimeoutError:
        return []
    while not inbox.empty():
        come.append(inbox.get_nowait())
    return come


class EventWriter:
    """Writes the events of one stream.

    Args:
        writer: writes their chunks.
        tells_usage: whether the last one tells token counts.
    """

    def __init__(self, writer: Writer, *, tells_usage: bool) -> None:
        self._writer = writer
        self._tells_usage = tells_usage
        self._begun: set[int] = set()
        self._usages: dict[int, Usage] = {}

    def events(self, pieces: Iterable[NumberedPiece]) -> bytes:
        """The events of some pieces; b"" where there is nothing in them to tell."""
        chunks: list[BaseModel | None] = []
        for number, piece in pieces:
            if number not in self._begun:
                self._begun.add(number)
                chunks.append(self._writer.first_chunk(number))
            chunks.append(self._writer.chunk(number, piece))
            if piece.completion is not None:
                self._usages[number] = piece.completion.usage
        return b"".join(event(chunk.model_dump_json()) for chunk in chunks if chunk is not None)

    def end(self) -> bytes:
        """The last events, once all answers are whole."""
        if not self._tells_usage:
            return DONE
        usages = [usage for _, usage in sorted(self._usages.items())]
        return event(self._writer.usage_chunk(usages).model_dump_json()) + DONE


def event(json: str) -> bytes:
    """An event with JSON as its data, which has no line breaks in it."""
    return f"data: {json}\n\n".encode()
