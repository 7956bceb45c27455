"""Asker: from what is asked of a RemoteEngine to what is asked of its server, which may have to be asked for facts."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from sda_engine.config import NoEffectWarning
from sda_engine.contents import has_pictures
from sda_engine.prompts import Message, normalise_messages
from sda_engine.remote.answer import Answer
from sda_engine.remote.asked import Asked
from sda_engine.remote.caller import Caller
from sda_engine.remote.connection import Work
from sda_engine.remote.server import ModelFacts, Server
from sda_engine.remote.stages import Stages, asks_evaluators, rates_here
from sda_engine.request_settings import RequestSettings
from sda_engine.user_warnings import warn_user
from sda_engine.wire.write_request import write_chat_request


class Asker:
    """Makes the requests of one engine.

    Args:
        model: what the server calls it.
        server: is asked for facts.
        caller: makes requests of HTTP.
        timeout: seconds for requests that name none; None for no limit.
        trace: whether answers come with what steering did at each token.
    """

    def __init__(self, model: str, server: Server, caller: Caller, *, timeout: float | None, trace: bool) -> None:
        self._model, self._server, self._caller = model, server, caller
        self._timeout, self._trace = timeout, trace
        self._facts: ModelFacts | None = None

    def asked(self, messages: Sequence[Message], settings: RequestSettings) -> Asked:
        """What is asked, once all that can be checked here is checked.

        Raises:
            MessageError, ConfigError: something cannot be sent, or the server has no evaluator that is asked for.
            SDAError: the server has to be asked for facts, and does not tell them.
        """
        messages, deadline = normalise_messages(messages), self._deadline(settings)
        facts = self.facts(deadline) if asks_evaluators(settings) else None
        return self._made(messages, settings, deadline, facts)

    async def asked_in_loop(self, messages: Sequence[Message], settings: RequestSettings) -> Asked:
        """The same for an event loop."""
        messages, deadline = normalise_messages(messages), self._deadline(settings)
        facts = None
        if asks_evaluators(settings):
            facts = self._facts or self._keep(await self._caller.wait_in_loop(self._ask_facts(deadline)))
        if has_pictures(messages):  # to read and write them takes long
            return await asyncio.to_thread(self._made, messages, settings, deadline, facts)
        return self._made(messages, settings, deadline, facts)

    def facts(self, deadline: float | None = None) -> ModelFacts:
        """What the server tells of the model; it is asked once.

        Warns with NoEffectWarning where the model's name is an alias with an alignment.

        Args:
            deadline: in seconds of time.monotonic(); None for no limit but that of such questions.

        Raises:
            SDAError: it does not tell.
        """
        return self._facts or self._keep(self._caller.wait(self._ask_facts(deadline)))

    def _made(
        self, messages: Sequence[Message], settings: RequestSettings, deadline: float | None, facts: ModelFacts | None
    ) -> Asked:
        """What is asked; the facts are there where they count."""
        what: Mapping[str, object] | Stages
        if settings.alignment is None:  # what steers nothing need not be sendable, such as a judge of this process
            settings = replace(settings, steering=settings.steering.fitting(None))
        if facts is not None and rates_here(settings, facts):
            what = Stages(self._model, messages, settings, facts, trace=self._trace)
        else:
            what = write_chat_request(self._model, messages, settings, trace=self._trace)
        server = self._server
        make_answer = partial(Answer, explainer=server.explainer, deadline=deadline, max_retries=server.max_retries)
        return Asked(what, self._caller, make_answer, deadline)

    def _deadline(self, settings: RequestSettings) -> float | None:
        timeout = self._timeout if settings.timeout is None else settings.timeout
        return None if timeout is None else time.monotonic() + timeout

    def _ask_facts(self, deadline: float | None) -> Work[ModelFacts]:
        return lambda client: self._server.facts(client, self._model, deadline)

    def _keep(self, facts: ModelFacts) -> ModelFacts:
        self._facts = facts
        if facts.aliased is not None:
            warn_user(
                f"model={self._model!r} steers by nothing here: an alignment in a model's name is for clients that "
                f"cannot send one. Pass alignment={facts.aliased!r}; without it, answers are plain.",
                NoEffectWarning,
            )
        return facts
