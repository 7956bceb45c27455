"""What a RemoteEngine asks of its server beside answers: facts about the model, and tokens."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import openai
from pydantic import BaseModel

from sda_engine.errors import ServerError
from sda_engine.remote.exchange import Exchange
from sda_engine.remote.failures import Explainer
from sda_engine.wire.replies import ModelCard, TokenizeReply

_SECONDS = 30.0  # for what takes a server no time

_Reply = TypeVar("_Reply", bound=BaseModel)


@dataclass(frozen=True)
class ModelFacts:
    """What a server tells of a model; see the properties of SteeringEngine."""

    context_window: int
    thinks: bool
    reads_pictures: bool
    template_variables: frozenset[str]
    aliased: str | None
    """The alignment that the model's name stands for, where it is an alias for clients that cannot send one."""
    backend: str
    """What runs the model: "sda" for `sda serve`."""
    has_evaluators: bool
    """Whether evaluators rate in the server; False where clients have to."""


@dataclass(frozen=True)
class Server:
    """The routes of a server.

    Attributes:
        url: the API's root.
        explainer: turns what fails into errors of ours.
        max_retries: further tries of each request.
    """

    url: str
    explainer: Explainer
    max_retries: int

    async def facts(self, client: openai.AsyncOpenAI, model: str, deadline: float | None = None) -> ModelFacts:
        """What the server tells of a model.

        Args:
            client: asks.
            model: what the server calls it.
            deadline: of the request that needs to know, in seconds of time.monotonic(); None for no limit but our own.

        Raises:
            ModelLoadError: it does not know the model.
            ConfigError: it refuses the key.
            ServerError: it cannot be reached, or tells nothing.
            RequestTimeoutError: the deadline passed.
        """
        card = await self._ask(client, f"models/{quote(model, safe='/:')}", ModelCard, deadline=deadline)
        if card.max_model_len is None:
            raise ServerError(
                f"The server {self.url} does not tell the context window of {model!r}: is base_url the root of an SDA "
                f"server, which mostly ends in /v1?"
            )
        variables = card.sda.get("template_variables")
        return ModelFacts(
            context_window=card.max_model_len,
            thinks=card.sda.get("thinks") is True,
            reads_pictures=card.sda.get("reads_pictures") is True,
            template_variables=frozenset(map(str, variables if isinstance(variables, list) else ())),
            aliased=_aliased(card),
            backend=str(card.sda.get("backend", "sda")),
            has_evaluators=card.sda.get("evaluators") is not False,
        )

    async def tokenize(self, client: openai.AsyncOpenAI, body: Mapping[str, object]) -> TokenizeReply:
        """Tokens of a text, or how many those of a chat are."""
        return await self._ask(client, f"{self.url.removesuffix('/v1')}/tokenize", TokenizeReply, body)

    async def _ask(
        self,
        client: openai.AsyncOpenAI,
        path: str,
        kind: type[_Reply],
        body: Mapping[str, object] | None = None,
        deadline: float | None = None,
    ) -> _Reply:
        own = time.monotonic() + _SECONDS
        exchange = Exchange(
            path,
            self.explainer,
            body=None if body is None else lambda _: body,
            deadline=own if deadline is None else min(own, deadline),
            max_retries=self.max_retries,
        )
        return await exchange.read(client, kind)


def _aliased(card: ModelCard) -> str | None:
    name, alignment = card.sda.get("model"), card.sda.get("alignment")
    is_alias = isinstance(name, str) and card.id != name and card.sda.get("adapter") is None
    return alignment if is_alias and isinstance(alignment, str) else None
