"""One answer that is asked of a server: what is sent for it, and what is made of the reply."""

from collections.abc import Callable, Mapping
from contextlib import aclosing

import openai

from sda_engine.remote.exchange import Exchange
from sda_engine.remote.failures import Explainer
from sda_engine.results import Completion, Piece
from sda_engine.wire.read_reply import ChunkReader, read_completion
from sda_engine.wire.replies import ChatChunk, ChatReply

STREAMED: Mapping[str, object] = {"stream": True, "stream_options": {"include_usage": True}}
"""What a request has whose answer comes in pieces."""


class Answer:
    """Asks for an answer once, whole or in pieces.

    Args:
        body: of the request, but for the time it may take; `STREAMED` is part of one whose pieces are wanted.
        explainer: turns what fails into errors of ours.
        deadline: in seconds of time.monotonic(); None for no limit.
        max_retries: further tries.
    """

    def __init__(
        self, body: Mapping[str, object], explainer: Explainer, *, deadline: float | None, max_retries: int
    ) -> None:
        self._body, self._explainer = body, explainer
        self._reader = ChunkReader()
        self._exchange = Exchange(
            "chat/completions",
            explainer,
            body=self._with_timeout,
            deadline=deadline,
            max_retries=max_retries,
            heard=lambda: self._reader.text,
        )

    @property
    def text(self) -> str:
        """What has come of it."""
        return self._reader.text

    async def completion(self, client: openai.AsyncOpenAI) -> Completion:
        """The answer as a whole."""
        return read_completion(await self._exchange.read(client, ChatReply))

    async def pieces(self, client: openai.AsyncOpenAI, put: Callable[[Piece], None]) -> None:
        """Hand out the answer in pieces; the last one has the Completion."""
        whole = False
        async with aclosing(self._exchange.events(client, ChatChunk)) as chunks:
            async for chunk in chunks:
                if (piece := self._reader.add(chunk)) is not None:
                    put(piece)
                    whole = piece.completion is not None
        if not whole:
            raise self._explainer.ended_early(request_id=self._exchange.request_id, partial=self.text)

    def _with_timeout(self, seconds: float | None) -> Mapping[str, object]:
        if seconds is None:
            return self._body
        sda = self._body.get("sda")
        return {**self._body, "sda": {**(sda if isinstance(sda, Mapping) else {}), "timeout": seconds}}
