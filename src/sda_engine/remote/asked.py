"""Asked: one request of a RemoteEngine, answered for threads and event loops, in several stages where it is rated here.

Evaluators are called where the answer is waited for, as an engine calls them: in the caller's thread or event loop, and
never in the connection's, which all requests share.
"""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, closing

from sda_engine.errors import RequestTimeoutError
from sda_engine.remote.answer import STREAMED, Answer
from sda_engine.remote.caller import Caller
from sda_engine.remote.stages import Stages
from sda_engine.results import Completion, Piece, whole_piece

Body = Mapping[str, object]


class Asked:
    """One request.

    Args:
        what: the body of the one request of HTTP that it takes, or the stages that it goes through.
        caller: makes the requests of HTTP.
        make_answer: makes what asks for an answer, of the body of its request.
        deadline: in seconds of time.monotonic(), for all stages together; None for no limit.
    """

    def __init__(
        self, what: Body | Stages, caller: Caller, make_answer: Callable[[Body], Answer], deadline: float | None
    ) -> None:
        self._what, self._caller, self._make_answer, self._deadline = what, caller, make_answer, deadline

    def completion(self) -> Completion:
        """The answer as a whole, for a thread."""
        last = self._last_body()
        if isinstance(last, Completion):
            return last
        return self._finished(self._caller.wait(self._make_answer(last).completion))

    async def completion_in_loop(self) -> Completion:
        """The same for an event loop. Cancelling the task gives it up, whatever the stage."""
        last = await self._last_body_in_loop()
        if isinstance(last, Completion):
            return last
        return self._finished(await self._caller.wait_in_loop(self._make_answer(last).completion))

    def pieces(self) -> Generator[Piece, None, None]:
        """The answer in pieces, for a thread. Closing the generator gives it up."""
        last = self._last_body()
        if isinstance(last, Completion):
            yield whole_piece(last)
            return
        with closing(self._caller.pieces(self._make_answer({**last, **STREAMED}))) as pieces:
            for piece in pieces:
                yield self._finished_piece(piece)

    async def pieces_in_loop(self) -> AsyncGenerator[Piece, None]:
        """The same for an event loop. Closing the generator or cancelling the task gives it up."""
        last = await self._last_body_in_loop()
        if isinstance(last, Completion):
            yield whole_piece(last)
            return
        async with aclosing(self._caller.pieces_in_loop(self._make_answer({**last, **STREAMED}))) as pieces:
            async for piece in pieces:
                yield self._finished_piece(piece)

    def _last_body(self) -> Body | Completion:
        """What asks for the answer, after all stages before it; or the base response that is the answer."""
        stages = self._what
        if not isinstance(stages, Stages):
            return stages
        if (body := stages.base_body) is not None:
            stages.base = self._caller.wait(self._make_answer(body).completion)
        with stages.verdict() as verdict:
            verdict.score = stages.evaluator.evaluate(stages.evaluation_request())
        return stages.accepted or self._steered_body(stages)

    async def _last_body_in_loop(self) -> Body | Completion:
        stages = self._what
        if not isinstance(stages, Stages):
            return stages
        if (body := stages.base_body) is not None:
            stages.base = await self._caller.wait_in_loop(self._make_answer(body).completion)
        with stages.verdict() as verdict:
            verdict.score = await stages.evaluator.aevaluate(stages.evaluation_request())
        return stages.accepted or self._steered_body(stages)

    def _steered_body(self, stages: Stages) -> Body:
        body = stages.steered_body()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise RequestTimeoutError(
                "The base response and its rating took all of the request's timeout. Allow more seconds (timeout=...), "
                "or give an evaluator with a shorter limit of its own."
            )
        return body

    def _finished(self, answer: Completion) -> Completion:
        return self._what.finish(answer) if isinstance(self._what, Stages) else answer

    def _finished_piece(self, piece: Piece) -> Piece:
        return self._what.finish_piece(piece) if isinstance(self._what, Stages) else piece
