"""RecordingEngine: an engine that keeps what it answers."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Unpack

from sda_engine import Completion, Piece, SteeringEngine
from sda_engine.alignment import AlignmentLike
from sda_engine.prompts import Message
from sda_engine.request_settings import RequestOptions


class RecordingEngine(SteeringEngine):
    """A steering engine that keeps its last Completion, and reports each token of an answer.

    Frameworks hand back an answer's text and figures, but not its trace. An application that wants the trace of the
    very answer that a framework showed, rather than of a second one, gives the framework such an engine.

    `generate` and `stream` are recorded; the asynchronous methods are not.

    Attributes:
        last: the Completion of the last request; None before the first one.
        on_piece: called with each piece of an answer; None calls nothing.
    """

    last: Completion | None = None
    on_piece: Callable[[Piece], None] | None = None

    def generate(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """See SteeringEngine.generate; the answer comes as one piece."""
        done = super().generate(messages, alignment, **options)
        self._note(Piece(done.text, token_ids=done.token_ids, completion=done, trace=done.trace.tokens))
        return done

    def stream(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[Piece, None, None]:
        """See SteeringEngine.stream."""
        return self._record(super().stream(messages, alignment, **options))

    def _record(self, pieces: Generator[Piece, None, None]) -> Generator[Piece, None, None]:
        with closing(pieces):
            for piece in pieces:
                self._note(piece)
                yield piece

    def _note(self, piece: Piece) -> None:
        if self.on_piece is not None:
            self.on_piece(piece)
        if piece.completion is not None:
            self.last = piece.completion
