"""Requirement 30: 32 clients at once, 8 of which go away at any moment and in any way, over real sockets."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import httpx
import pytest

from sda_engine import Completion, EngineSettings, RemoteEngine, Sampling, SteeringEngine
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.sda_engine.decoding.company import ALIGNMENTS, WORDS, count_rows, dice, held_tokens, stored_tokens
from tests.sda_integrations.server.answers import wait_until
from tests.servers import serving
from tests.sizes import size

CLIENTS, LEAVERS = 32, 8
LONG = 1_000  # tokens of an answer that nobody waits for


@dataclass(frozen=True)
class Ask:
    """What a client asks for: one of a few, so that solo answers are decoded once."""

    text: str
    alignment: int
    tokens: int

    def arguments(self, tokens: int | None = None) -> dict[str, object]:
        sampling = Sampling(temperature=0, max_new_tokens=tokens or self.tokens)
        return {"messages": user(self.text), "alignment": ALIGNMENTS[self.alignment], "sampling": sampling}


def make_ask(rng: random.Random) -> Ask:
    words = " ".join(rng.choices(WORDS, k=rng.choice([1, 3, 20])))
    return Ask(f"{rng.randrange(3)} {words}", rng.randrange(len(ALIGNMENTS)), rng.choice([1, 5, 12]))


@pytest.fixture(scope="module")
def engine():
    """It stores no prompts, so that what is held when all is over is what was left."""
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(prefix_cache=False)) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(engine):
    with serving(engine, served_model_name="tiny") as url:
        yield url


@pytest.fixture(scope="module")
def solo():
    """What an engine of its own answers to each in process, alone."""
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(prefix_cache=False)) as alone:
        yield cache(lambda ask: alone.generate(**ask.arguments()).token_ids)


async def whole(remote: RemoteEngine, ask: Ask) -> Completion:
    return await remote.agenerate(**ask.arguments())


async def streamed(remote: RemoteEngine, ask: Ask) -> Completion:
    pieces = [piece async for piece in remote.astream(**ask.arguments())]
    done = pieces[-1].completion
    assert "".join(piece.text for piece in pieces) == done.text
    return done


async def closes_its_stream(remote: RemoteEngine, ask: Ask, rng: random.Random) -> None:
    stream = remote.astream(**ask.arguments(LONG))
    for _ in range(rng.randrange(1, 6)):
        with suppress(StopAsyncIteration):
            await anext(stream)
    await stream.aclose()


async def cancels(remote: RemoteEngine, ask: Ask, rng: random.Random) -> None:
    task = asyncio.ensure_future(remote.agenerate(**ask.arguments(LONG)))
    await asyncio.sleep(rng.random() * 0.3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def hangs_up(remote: RemoteEngine, ask: Ask, rng: random.Random) -> None:
    """At any byte of the request or of the reply, with a reset or without."""
    body = {"model": "tiny", "messages": user(ask.text), "max_tokens": LONG, "stream": rng.random() < 0.5}
    text = json.dumps(body | {"sda": {"alignment": rng.choice([None, "honesty"])}}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(text) + text
    address = httpx.URL(remote.base_url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request[: rng.choice([rng.randrange(len(request)), len(request)])])
    await writer.drain()
    with suppress(TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(rng.random() * 0.3):
            await reader.readexactly(rng.randrange(1, 2000))
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


Leave = Callable[[RemoteEngine, Ask, random.Random], Awaitable[None]]
WAYS_TO_LEAVE: tuple[Leave, ...] = (closes_its_stream, cancels, hangs_up, hangs_up)


@pytest.mark.parametrize("seed", range(size(100, 3)))
async def test_24_clients_get_what_the_engine_gives_alone_while_8_others_go_away(engine, url, solo, seed):
    rng = dice(seed)
    asks = [make_ask(rng) for _ in range(CLIENTS)]
    leavers = set(rng.sample(range(CLIENTS), LEAVERS))
    rows = count_rows()
    with RemoteEngine(f"{url}/v1", model="tiny") as remote:

        def ask(number: int) -> Awaitable[Completion | None]:
            if number in leavers:
                return rng.choice(WAYS_TO_LEAVE)(remote, asks[number], rng)
            return rng.choice((whole, streamed))(remote, asks[number])

        done = await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
        await asyncio.to_thread(wait_until, lambda: engine.stats().requests == engine.stats().rows == 0)
    for number in set(range(CLIENTS)) - leavers:
        assert done[number].token_ids == solo(asks[number]), (number, asks[number])
    await asyncio.to_thread(wait_until, lambda: held_tokens(engine) == stored_tokens(engine) == 0)
    await asyncio.to_thread(wait_until, lambda: count_rows() <= rows)
