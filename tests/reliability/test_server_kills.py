"""Requirement 30: a server that is killed. Its clients hear of it by errors of their kinds, and the next one serves."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage

from sda_engine import RemoteEngine, Sampling
from sda_engine.errors import ServerError
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.reliability.served_process import ServedProcess

QUESTION = user("What is in the library?")
LONG = 15_000  # tokens, which take the tiny model a minute
SECONDS = 20.0  # in which every client has to have heard of it; it takes a second or two


@dataclass
class Client:
    """Somebody who waits for an answer in a thread.

    Attributes:
        ask: asks, and hands out the text as it comes; nothing before a whole answer.
        kinds: of the errors that may end it.
        streams: whether the answer comes in pieces.
        heard: the text so far.
        error: what ended it.
        ended: when.
    """

    ask: Callable[[str], Iterator[str]]
    kinds: tuple[type[Exception], ...]
    streams: bool
    heard: str = ""
    error: BaseException | None = None
    ended: float = 0.0
    thread: threading.Thread = field(init=False)

    def start(self, url: str) -> None:
        self.thread = threading.Thread(target=self._run, args=(url,))
        self.thread.start()

    def _run(self, url: str) -> None:
        try:
            for text in self.ask(url):
                self.heard += text
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.error = error
        self.ended = time.monotonic()


def remote(url: str) -> RemoteEngine:
    return RemoteEngine(url, model="tiny")


SAMPLING = Sampling(max_new_tokens=LONG, seed=1)
ASKED = {"model": "tiny", "messages": QUESTION, "max_tokens": LONG}


def remote_stream(url: str) -> Iterator[str]:
    yield from (piece.text for piece in remote(url).stream(QUESTION, "honesty", sampling=SAMPLING))


def remote_astream(url: str) -> Iterator[str]:
    yield from in_a_loop(lambda: (p.text async for p in remote(url).astream(QUESTION, sampling=SAMPLING)))


def remote_whole(url: str) -> Iterator[str]:
    yield remote(url).generate(QUESTION, sampling=SAMPLING).text


def remote_awhole(url: str) -> Iterator[str]:
    yield asyncio.run(remote(url).agenerate(QUESTION, "empathy", sampling=SAMPLING)).text


def openai_stream(url: str) -> Iterator[str]:
    with openai.OpenAI(base_url=url, api_key="any") as client:
        for chunk in client.chat.completions.create(**ASKED, stream=True):
            yield chunk.choices[0].delta.content or ""


def openai_astream(url: str) -> Iterator[str]:
    async def texts():
        async with openai.AsyncOpenAI(base_url=url, api_key="any") as client:
            async for chunk in await client.chat.completions.create(**ASKED, stream=True):
                yield chunk.choices[0].delta.content or ""

    yield from in_a_loop(texts)


def openai_whole(url: str) -> Iterator[str]:
    with openai.OpenAI(base_url=url, api_key="any") as client:
        yield client.chat.completions.create(**ASKED).choices[0].message.content


def langchain_stream(url: str) -> Iterator[str]:
    chat = ChatSDA(base_url=url, model="tiny", max_tokens=LONG)
    yield from (chunk.text for chunk in chat.stream([HumanMessage(QUESTION[0]["content"])]))


def langchain_whole(url: str) -> Iterator[str]:
    yield ChatSDA(base_url=url, model="tiny", max_tokens=LONG).invoke(QUESTION[0]["content"]).text


def llama_index_stream(url: str) -> Iterator[str]:
    llm = SDALLM(base_url=url, model="tiny", max_tokens=LONG)
    yield from (one.delta or "" for one in llm.stream_complete(QUESTION[0]["content"]))


def in_a_loop(make) -> Iterator[str]:
    """What an asynchronous generator gives, in a loop of its own."""
    with asyncio.Runner() as runner:
        texts = make()
        with suppress(StopAsyncIteration):
            while True:
                yield runner.run(anext(texts))


OURS, OPENAIS = (ServerError,), (openai.APIConnectionError,)
CLIENTS = {
    "RemoteEngine.stream": (remote_stream, OURS, True),
    "RemoteEngine.astream": (remote_astream, OURS, True),
    "RemoteEngine.generate": (remote_whole, OURS, False),
    "RemoteEngine.agenerate": (remote_awhole, OURS, False),
    "OpenAI stream": (openai_stream, OPENAIS, True),
    "AsyncOpenAI stream": (openai_astream, OPENAIS, True),
    "OpenAI whole": (openai_whole, OPENAIS, False),
    "ChatSDA.stream": (langchain_stream, OURS, True),
    "ChatSDA.invoke": (langchain_whole, OURS, False),
    "SDALLM.stream_complete": (llama_index_stream, OURS, True),
}


@pytest.fixture
def model(tmp_path):
    """A folder of a tiny model that never ends an answer by itself."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), context_window=16_384)
    model.generation_config.eos_token_id = []
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def running(url: str) -> float:
    """How many requests the server's engine has."""
    page = httpx.get(url.removesuffix("/v1") + "/metrics").text
    return float(page.partition("\nsda_engine_requests ")[2].partition("\n")[0])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to it"
        time.sleep(0.02)


def test_every_client_of_a_server_that_is_killed_gets_an_error_of_its_kind_and_the_next_start_serves(model):
    """One process is started, which takes ten seconds of imports: the server that comes after the kill is its fork."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    served = ServedProcess(model, "--port", str(port), "--dtype", "float32")  # in which company changes no token
    clients = {name: Client(*each) for name, each in CLIENTS.items()}
    try:
        served.serve()
        for client in clients.values():
            client.start(url)
        wait_until(lambda: running(url) == len(clients))
        wait_until(lambda: all(len(client.heard) > 20 for client in clients.values() if client.streams))
        assert not any(client.ended for client in clients.values())
        served.kill()
        killed = time.monotonic()
        for client in clients.values():
            client.thread.join(max(0.0, killed + SECONDS - time.monotonic()))
        late = {name: round(client.ended - killed, 3) for name, client in clients.items()}
        assert all(client.ended for client in clients.values()), late
        served.serve()
        again = remote(url).generate(QUESTION, sampling=SAMPLING.replace(max_new_tokens=5))
    finally:
        served.close()
        for client in clients.values():
            client.thread.join()
    for name, client in clients.items():
        assert isinstance(client.error, client.kinds), (name, client.error)
        assert bool(client.heard) is client.streams, name
        if client.kinds is OURS:
            assert client.error.partial == client.heard, name
    assert again.usage.completion_tokens == 5
    before = clients["RemoteEngine.astream"].heard
    assert before.startswith(again.text.rstrip("�")), "the next one answers alike"
