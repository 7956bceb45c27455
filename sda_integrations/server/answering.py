"""AnswerResponse: answers of the engine to one request, whole or as a stream, while its client waits."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sda_engine.adapting import all_or_first_failure
from sda_engine.errors import ConstraintError, EvaluationError, SDAError
from sda_engine.request_settings import RequestArguments
from sda_engine.results import Completion
from sda_engine.user_warnings import without_user_warnings
from sda_engine.wire.read_form import form_field
from sda_engine.wire.sda_field import SDAField
from sda_integrations.server.asked import AskedAnswer, AskedAnswers
from sda_integrations.server.connections import ClientGoneError, while_connected
from sda_integrations.server.metrics import Metrics
from sda_integrations.server.replies import sda_error_response
from sda_integrations.server.service import Caller, Service
from sda_integrations.server.streaming import DONE, KEEP_ALIVE, EventWriter, NumberedPiece, event, pieces_as_they_come

SECONDS_OF_SILENCE = 15.0
"""After so long without a piece a stream tells that it goes on."""

_STREAM_HEADERS = {"x-accel-buffering": "no"}  # proxies shall pass on what there is


class AnswerResponse(Response):
    """Has the engine answer, and sends what it answers.

    A client that goes away meanwhile, be it while its request waits in the queue or for an evaluator, has its rows
    freed before the next token. An error before the first piece is an ordinary reply; a later one ends the stream.

    Args:
        asked: what is asked for.
        service: whose engine answers.
        caller: who asks.
    """

    def __init__(self, asked: AskedAnswers, service: Service, caller: Caller) -> None:
        super().__init__()
        self._asked = asked
        self._service = service
        self._caller = caller
        self._progress = _Progress(service.metrics, asked.evaluator)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        work = self._stream(scope, receive, send) if self._asked.stream else self._answer(scope, receive, send)
        try:
            with without_user_warnings():
                await while_connected(receive, work)
        except ClientGoneError:
            self._service.metrics.cancelled()  # and nothing is sent, since nobody is there

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = self._service.engine
        try:
            completions = await all_or_first_failure(
                [engine.agenerate(one.messages, **self._arguments(one)) for one in self._asked.answers]
            )
        except SDAError as error:
            self._note(error)
            raise
        for completion in completions:
            self._progress.ended(completion)
        # What tells of each token takes a tenth of a millisecond for each, for which others' streams would have to wait
        body = await asyncio.to_thread(self._write, completions) if self._asked.details else self._write(completions)
        await Response(body, media_type="application/json")(scope, receive, send)

    def _write(self, completions: Sequence[Completion]) -> bytes:
        return self._asked.writer.reply(completions).model_dump_json().encode()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = EventWriter(self._asked.writer, tells_usage=self._asked.tells_usage)
        begun = False
        try:
            streams = [
                self._service.engine.astream(one.messages, **self._arguments(one)) for one in self._asked.answers
            ]
            async with aclosing(pieces_as_they_come(streams, SECONDS_OF_SILENCE)) as batches:
                async for pieces in batches:
                    if not begun and pieces:
                        await _begin_stream(send)
                        begun = True
                    body = events.events(pieces) if pieces else KEEP_ALIVE
                    if begun and body:
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                    self._progress.came(pieces)
            end = events.end()
        except SDAError as error:
            self._note(error)
            if not begun:
                raise
            end = event(sda_error_response(error, self._caller.request_id).json) + DONE
        await send({"type": "http.response.body", "body": end, "more_body": False})

    def _arguments(self, one: AskedAnswer) -> RequestArguments:
        return replace(one.settings, cache_salt=self._caller.cache_salt).arguments()

    def _note(self, error: SDAError) -> None:
        """Count an error of the engine, and name its field as the request does."""
        if isinstance(error, EvaluationError):
            self._progress.evaluator_failed()
        if isinstance(error, ConstraintError) and error.field is None:
            error.field = form_field(self._asked.answers[0].settings.output)
        if error.field in SDAField.model_fields:
            error.field = f"sda.{error.field}"


async def _begin_stream(send: Send) -> None:
    headers = Response(media_type="text/event-stream", headers=_STREAM_HEADERS).raw_headers
    kept = [(name, value) for name, value in headers if name != b"content-length"]
    await send({"type": "http.response.start", "status": 200, "headers": kept})


class _Progress:
    """Tells the metrics how the answers to one request get on."""

    def __init__(self, metrics: Metrics, evaluator: str) -> None:
        self._metrics = metrics
        self._evaluator = evaluator
        self._began = time.perf_counter()
        self._first: dict[int, float] = {}  # when the first piece of an answer came, of those that came in pieces

    def came(self, pieces: Iterable[NumberedPiece]) -> None:
        """Pieces have been sent."""
        now = time.perf_counter()
        for number, piece in pieces:
            completion, first = piece.completion, self._first.get(number)
            if first is None and completion is None:
                self._metrics.began_to_answer(now - self._began)
                self._first[number] = now
            if completion is not None:
                self.ended(completion)
                if first is not None:
                    self._metrics.decoded(completion.usage.completion_tokens, now - first)

    def ended(self, completion: Completion) -> None:
        """An answer is whole."""
        usage = completion.usage
        self._metrics.answered(
            completion.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_prompt_tokens,
            completion_tokens=usage.completion_tokens + usage.base_response_tokens + usage.dropped_tokens,
        )
        if completion.score is not None and completion.score.fallback is not None:
            self.evaluator_failed()

    def evaluator_failed(self) -> None:
        """There was no score."""
        self._metrics.evaluator_failed(self._evaluator)
