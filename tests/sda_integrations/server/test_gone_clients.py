"""Clients that go away: whatever their requests were doing, their rows are free before the next token."""

import asyncio
import random

import openai
import pytest

from sda_engine import Sampling, Steering
from sda_engine.evaluators.protocol import Score
from sda_integrations.server import ServerSettings, make_app
from tests.sda_integrations.server.answers import QUESTION, Gate, connection, endless_engine, wait_until
from tests.servers import serving, serving_app

CHAT = "/v1/chat/completions"
ENDLESS = {"model": "endless", "messages": QUESTION, "max_tokens": 1500}


@pytest.fixture
def gate():
    """Nothing is decoded but what the test lets through."""
    return Gate()


def gated_server(engine, gate):
    """An application whose answers are steered, and wait at the gate before each token."""
    steering = Steering(temperature_schedule=gate)
    sampling = Sampling(temperature=2.0)
    return make_app(engine, ServerSettings(alignment="honesty", steering=steering, sampling=sampling))


def cancellations(app):
    page = app.state.service.metrics.page().decode()
    return float(page.partition("\nsda_cancelled_requests_total ")[2].partition("\n")[0])


def goes_away(engine, gate, path, began, **body):
    """What comes of a request whose client goes away once it `began`."""
    app = gated_server(engine, gate)
    with serving_app(app) as (url, _):
        with connection(url, path, **body) as client:
            began(client)
        wait_until(lambda: engine.stats().requests == 0)
        seen = gate.seen
        gate.let_through(10_000)  # whoever went on would go on to the end now
        wait_until(lambda: engine.stats().rows == engine.stats().running_tasks == engine.stats().waiting_tasks == 0)
        assert cancellations(app) == 1
    return gate.seen - seen


@pytest.mark.parametrize("answers", [1, 3])
def test_a_client_that_hangs_up_in_a_stream_while_nothing_is_sent_frees_all_rows(gate, answers):
    def began(client):
        gate.let_through(2 * answers)
        text = b""
        while text.count(b"data: ") < 2 * answers:
            text += client.recv(4096)
        wait_until(lambda: gate.seen > 2 * answers)

    with endless_engine() as engine:
        assert goes_away(engine, gate, CHAT, began, **ENDLESS, stream=True, n=answers) <= answers


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_hangs_up_during_a_whole_answer_frees_all_rows(gate, path):
    def began(client):
        gate.let_through(2)
        wait_until(lambda: gate.seen == 3)

    asked = {"messages": QUESTION} if path == CHAT else {"prompt": "What is in the library?"}
    with endless_engine() as engine:
        assert goes_away(engine, gate, path, began, model="endless", max_tokens=1500, **asked) == 0


def test_a_client_that_hangs_up_while_its_request_waits_leaves_the_queue(gate):
    with endless_engine(max_rows=3) as engine:
        app = gated_server(engine, gate)
        with serving_app(app) as (url, _):
            with connection(url, CHAT, **ENDLESS, stream=True):
                wait_until(lambda: gate.seen == 1)
                with connection(url, CHAT, **ENDLESS, stream=True):
                    wait_until(lambda: engine.stats().waiting_tasks == 1)
                wait_until(lambda: engine.stats().requests == 1)
                gate.let_through(1)
                wait_until(lambda: engine.stats().waiting_tasks == 0 and gate.seen == 2)
                assert engine.stats().rows == 2, "those of the first one alone"
            wait_until(lambda: engine.stats().requests == 0)
            assert cancellations(app) == 2
            gate.let_through(10_000)


class EndlessJudge:
    """An evaluator that never comes to a score, and notes how it ended."""

    needs_response = False
    name = "EndlessJudge()"

    def __init__(self):
        self.asked = self.ended = False

    def evaluate(self, request):
        raise NotImplementedError

    async def aevaluate(self, request) -> Score:
        self.asked = True
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_while_an_evaluator_rates_ends_the_rating(stream):
    judge = EndlessJudge()
    with (
        endless_engine() as engine,
        serving(engine, alignment="honesty", evaluators={"judge": judge}, evaluator="judge") as url,
    ):
        with connection(url, CHAT, **ENDLESS, stream=stream):
            wait_until(lambda: judge.asked)
        wait_until(lambda: judge.ended and engine.stats().requests == 0)
        assert engine.stats().rows == 0


async def test_of_32_clients_8_hang_up_and_the_others_get_what_the_engine_gives_alone(engine):
    sampling = Sampling(temperature=0, max_new_tokens=10)
    questions = [f"What is in room {number} of the library?" for number in range(32)]
    wanted = [engine.generate([{"role": "user", "content": text}], "honesty", sampling=sampling) for text in questions]
    leavers = set(random.Random(0).sample(range(32), 8))  # noqa: S311 - no secret

    async def ask(client, number):
        chunks = await client.chat.completions.create(
            model="tiny-llama",
            messages=[{"role": "user", "content": questions[number]}],
            temperature=0,
            max_tokens=2000 if number in leavers else 10,
            stream=True,
        )
        text = ""
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if number in leavers and text:
                await chunks.close()
                return None
        return text

    with serving(engine, alignment="honesty") as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            texts = await asyncio.gather(*(ask(client, number) for number in range(32)))
        await asyncio.to_thread(wait_until, lambda: engine.stats().requests == engine.stats().rows == 0)
    assert [texts[number] for number in leavers] == [None] * 8
    for number in set(range(32)) - leavers:
        assert texts[number] == wanted[number].text
