"""Faults while vLLM decodes groups: clients that hang up, an engine that is killed, requests that cannot be kept."""

import asyncio
import math
import os
import signal
from contextlib import suppress

import httpx
import openai
import pytest

from sda_engine import RemoteEngine, Sampling, Steering, SteeringEngine
from sda_engine.errors import CapacityError, SDAError
from sda_engine.output import Constraint, Output
from sda_integrations.langchain import ChatSDA
from tests.sizes import size
from tests.vllm_server import Served

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.default_policy]

MODEL = "smollm2-135m"
PAPER = Steering(policy="paper")
REQUESTS, ABORTED = size(100, 40), size(10, 8)
TOKENS = 24
DIGITS = [str(digit) for digit in range(10)]


def chat(number: int) -> list[dict[str, object]]:
    return [{"role": "user", "content": f"Visitor {number} asks: what is a good name for boat number {number}?"}]


def sampling(number: int) -> Sampling:
    return Sampling(temperature=0.9 * (number % 2), seed=number, max_new_tokens=TOKENS)


async def test_requests_beside_clients_that_hang_up_are_answered_to_the_token(
    vllm: Served, smollm2_float32: SteeringEngine
):
    gone = {number * (REQUESTS // ABORTED) for number in range(ABORTED)}
    kept = [number for number in range(REQUESTS) if number not in gone]
    with RemoteEngine(f"{vllm.url}/v1", model=MODEL) as remote:

        async def one(number: int) -> str | None:
            if number in gone:
                pieces = remote.astream(chat(number), "honesty", steering=PAPER, sampling=Sampling(max_new_tokens=900))
                async for _ in pieces:
                    break
                await pieces.aclose()
                return None
            done = await remote.agenerate(chat(number), "honesty", steering=PAPER, sampling=sampling(number))
            return done.text

        texts = await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    checked = kept[:: size(1, 4)]
    wanted = await asyncio.gather(
        *(
            smollm2_float32.agenerate(chat(number), "honesty", steering=PAPER, sampling=sampling(number))
            for number in checked
        )
    )
    assert all(texts[number] for number in kept), "everybody else is answered"
    assert [texts[number] for number in checked] == [done.text for done in wanted]
    assert await _idle(vllm.url), "no sequence is left"


async def test_what_is_drawn_is_distributed_as_the_engine_says(vllm: Served, smollm2_float32: SteeringEngine):
    """Among ten tokens that a grammar leaves, by a chi-square test of many seeds."""
    from scipy.stats import chisquare

    question = [{"role": "user", "content": "Say a digit."}]
    form = Output(constraint=Constraint.regex("[0-9]"))
    plain = Sampling(temperature=1.0, top_p=None, max_new_tokens=1, logprobs=10, seed=0)
    steering = Steering(policy="paper", temperature_schedule="constant", gain=3)
    known = await smollm2_float32.agenerate(question, "honesty", steering=steering, sampling=plain, output=form)
    assert known.logprobs is not None
    probabilities = {token.text: math.exp(token.logprob) for token in known.logprobs[0].top}
    assert sorted(probabilities) == DIGITS
    draws = size(2000, 300)
    one_token = plain.replace(logprobs=None)
    at_a_time = asyncio.Semaphore(64)
    with RemoteEngine(f"{vllm.url}/v1", model=MODEL) as remote:

        async def draw(seed: int) -> str:
            async with at_a_time:
                asked = one_token.replace(seed=seed)
                done = await remote.agenerate(question, "honesty", steering=steering, sampling=asked, output=form)
            return done.text

        drawn = await asyncio.gather(*(draw(seed) for seed in range(draws)))
    counts = [drawn.count(digit) for digit in DIGITS]
    expected = [draws * probabilities[digit] for digit in DIGITS]
    assert sum(counts) == draws
    total = sum(expected)
    assert chisquare(counts, [one * draws / total for one in expected]).pvalue > 1e-3


def test_a_group_that_could_never_fit_is_refused_and_the_server_goes_on(vllm: Served):
    with RemoteEngine(f"{vllm.url}/v1", model=MODEL) as remote:
        many = {f"Say it in the manner of number {number}.": 1.0 for number in range(16)}
        with pytest.raises(CapacityError, match="memory"):
            remote.generate(chat(0), {**many}, steering=PAPER, sampling=Sampling(max_new_tokens=1900))
        assert remote.generate(chat(0), "honesty", steering=PAPER, sampling=sampling(0)).text


def test_settings_that_did_not_come_from_our_server_are_refused(vllm: Served):
    """Clients of vLLM's own routes can send extra arguments."""
    body = {
        "model": MODEL,
        "prompt": "Hello",
        "max_tokens": 2,
        "vllm_xargs": {"sda": "nonsense"},
    }
    reply = httpx.post(f"{vllm.url}/v1/completions", json=body, timeout=60)
    assert reply.status_code == 400
    assert httpx.post(f"{vllm.url}/v1/completions", json={**body, "vllm_xargs": {}}, timeout=60).status_code == 200


async def test_an_engine_that_is_killed_is_a_typed_error_for_every_client(vllm: Served):
    """The last test, since nobody can ask this server afterwards."""
    url = f"{vllm.url}/v1"
    long = Sampling(max_new_tokens=1500, temperature=0)
    remote = RemoteEngine(url, model=MODEL, max_retries=0)
    langchain = ChatSDA(base_url=url, model=MODEL, alignment="honesty", max_tokens=1500, max_retries=0)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    begun = asyncio.Event()

    async def by_stream() -> None:
        async for _ in remote.astream(chat(1), "honesty", steering=PAPER, sampling=long):
            begun.set()

    async def by_openai() -> None:
        await client.chat.completions.create(
            model=MODEL, messages=chat(2), max_tokens=1500, extra_body={"sda": {"alignment": "honesty"}}
        )

    asked = [
        asyncio.create_task(by_stream()),
        asyncio.create_task(remote.agenerate(chat(3), "honesty", steering=PAPER, sampling=long)),
        asyncio.create_task(langchain.ainvoke("Tell a long story.")),
        asyncio.create_task(by_openai()),
    ]
    await asyncio.wait_for(begun.wait(), 120)
    os.kill(vllm.engine_core(), signal.SIGKILL)
    errors = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 120)
    with pytest.raises(SDAError):
        await remote.agenerate(chat(4), sampling=long)
    await client.close()
    remote.close()
    assert [isinstance(one, SDAError) for one in errors[:3]] == [True] * 3, errors
    assert isinstance(errors[3], openai.APIError), errors


async def _idle(url: str) -> bool:
    """Whether vLLM comes to run nothing, by its own metrics."""
    async with httpx.AsyncClient() as client:
        for _ in range(100):
            with suppress(httpx.TransportError):
                page = (await client.get(f"{url}/metrics")).text
                lines = [line for line in page.splitlines() if line.startswith("vllm:num_requests_")]
                running = [float(line.rsplit(" ", 1)[1]) for line in lines if "running" in line or "waiting{" in line]
                if running and not any(running):
                    return True
            await asyncio.sleep(0.1)
    return False
