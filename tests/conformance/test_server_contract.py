"""One contract for all that speak the wire format: `sda serve`, and vLLM with SDA in it.

The engine in this process says what each answer must be, to the token. What is otherwise inside vLLM stands in one
table, `sda_integrations.vllm.differences`, and each of its refusals is tried here.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel

from sda_engine import Alignment, RemoteEngine, Sampling, Steering, SteeringEngine
from sda_engine.errors import ContextLengthError, SDAError
from sda_engine.output import Constraint, Output, Tool
from sda_engine.results import Completion
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from sda_integrations.vllm.differences import DIFFERENCES, Difference
from tests.servers import serving
from tests.vllm_server import ENVIRONMENT, vllm_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.default_policy,
    pytest.mark.usefixtures("no_event_loop_is_left_behind"),
]

MODEL = "smollm2-135m"
QUESTION = [{"role": "user", "content": "Is the earth flat? Answer in two sentences."}]
GREEDY = Sampling(temperature=0, max_new_tokens=24)
SEEDED = Sampling(temperature=0.8, top_p=0.9, seed=5, max_new_tokens=24)
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
WEATHER = Tool(name="weather", description="The weather of a city.", parameters=CITY)
KIND = Alignment(instruction="Be kind and gentle.", avoid="Be rude and blunt.")

ANSWERS: Mapping[str, tuple[object, dict[str, Any]]] = {
    "plain": (None, {"sampling": GREEDY}),
    "plain, sampled": (None, {"sampling": SEEDED}),
    "the paper's policy": ("honesty", {"sampling": GREEDY, "steering": Steering(policy="paper")}),
    "sampled": ("honesty", {"sampling": SEEDED, "steering": Steering(policy="paper")}),
    "gain": ("empathy", {"sampling": SEEDED, "steering": Steering(policy="paper", gain=4, amplification=0.7)}),
    "an instruction": ("Answer in French.", {"sampling": GREEDY, "steering": Steering(policy="paper")}),
    "avoid": (KIND, {"sampling": SEEDED, "steering": Steering(policy="paper", avoid_strength=0.8)}),
    "combined": ({"honesty": 1.0, "empathy": 0.5}, {"sampling": SEEDED, "steering": Steering(policy="paper")}),
    "plausibility": ("honesty", {"sampling": SEEDED, "steering": Steering(policy="paper", plausibility=0.2)}),
    "a constant temperature": (
        "honesty",
        {"sampling": SEEDED, "steering": Steering(policy="paper", temperature_schedule="constant")},
    ),
    "critical tokens": (
        "honesty",
        {
            "sampling": SEEDED,
            "steering": Steering(
                policy="paper", temperature_schedule="critical_tokens", critical_categories=("numbers",)
            ),
        },
    ),
    "truncation": (
        "honesty",
        {
            "sampling": Sampling(temperature=0.9, top_k=20, min_p=0.05, seed=3, max_new_tokens=24),
            "steering": Steering(policy="paper"),
        },
    ),
    "a budget": ("honesty", {"sampling": SEEDED, "steering": Steering(policy="budget", budget=6, reserve=4)}),
    "system placement": (
        "honesty",
        {"sampling": GREEDY, "steering": Steering(policy="paper", placement="system")},
    ),
    "a stop string": (None, {"sampling": GREEDY.replace(stop=(" sphere",))}),
    "one token": ("honesty", {"sampling": GREEDY.replace(max_new_tokens=1), "steering": Steering(policy="paper")}),
    "revisions": ("honesty", {"sampling": GREEDY}),
}
"""What is asked of each server, by the arguments of an engine's `generate`."""


@dataclass(frozen=True)
class Backend:
    """A server to hold the contract against."""

    kind: str
    url: str
    remote: RemoteEngine


@pytest.fixture(scope="session", params=["serve", pytest.param("vllm", marks=pytest.mark.vllm)])
def backend(
    request: pytest.FixtureRequest, smollm2_float32: SteeringEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    if request.param == "serve":
        with (
            serving(smollm2_float32, served_model_name=MODEL) as url,
            RemoteEngine(f"{url}/v1", model=MODEL) as remote,
        ):
            yield Backend("serve", url, remote)
        return
    if not ENVIRONMENT.is_dir():
        pytest.skip("There is no environment with vLLM; `make vllm` makes one where there is a wheel for it.")
    with (
        vllm_server(tmp_path_factory.mktemp("vllm") / "log") as server,
        RemoteEngine(f"{server.url}/v1", model=MODEL) as remote,
    ):
        yield Backend("vllm", server.url, remote)


async def _all(engine: SteeringEngine | RemoteEngine) -> dict[str, Completion]:
    """All answers, asked for at once."""
    done = await asyncio.gather(
        *(engine.agenerate(QUESTION, alignment, **options) for alignment, options in ANSWERS.values())
    )
    return dict(zip(ANSWERS, done, strict=True))


@pytest.fixture(scope="session")
def expected(smollm2_float32: SteeringEngine) -> dict[str, Completion]:
    return asyncio.run(_all(smollm2_float32))


@pytest.fixture(scope="session")
def answers(backend: Backend) -> dict[str, Completion]:
    return asyncio.run(_all(backend.remote))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_engine_s_to_the_token(
    name: str, answers: dict[str, Completion], expected: dict[str, Completion]
):
    answer, wanted = answers[name], expected[name]
    assert answer.text == wanted.text
    assert answer.finish_reason == wanted.finish_reason
    assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
    assert answer.usage.completion_tokens == wanted.usage.completion_tokens
    assert answer.usage.base_response_tokens == wanted.usage.base_response_tokens
    assert answer.amplification == wanted.amplification
    assert answer.trace.strength == wanted.trace.strength
    assert answer.trace.mean_divergence == pytest.approx(wanted.trace.mean_divergence, abs=1e-3)
    assert answer.trace.mean_temperature == pytest.approx(wanted.trace.mean_temperature, abs=1e-3)
    assert [one.lost for one in answer.attempts] == [one.lost for one in wanted.attempts]
    assert [one.text for one in answer.attempts] == [one.text for one in wanted.attempts]


def test_a_stream_holds_the_answer_in_pieces(backend: Backend, smollm2_float32: SteeringEngine):
    options: dict[str, Any] = {"sampling": SEEDED.replace(logprobs=2)}
    wanted = [*smollm2_float32.stream(QUESTION, "honesty", **options)]
    pieces = [*backend.remote.stream(QUESTION, "honesty", **options)]
    assert len(pieces) > 10
    assert "".join(piece.text for piece in pieces) == "".join(piece.text for piece in wanted)
    assert pieces[-1].completion is not None
    assert wanted[-1].completion is not None
    ours, theirs = pieces[-1].completion.logprobs, wanted[-1].completion.logprobs
    assert ours is not None
    assert theirs is not None
    for one, other in zip(ours, theirs, strict=True):
        assert one.chosen.text == other.chosen.text
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-3)
        assert [token.text for token in one.top] == [token.text for token in other.top]


def test_several_answers_have_seeds_of_their_own_and_repeat(backend: Backend):
    with openai.OpenAI(base_url=f"{backend.url}/v1", api_key="none") as client:
        both = [
            client.chat.completions.create(
                model=f"{MODEL}:honesty", messages=QUESTION, n=2, seed=7, temperature=0.9, max_tokens=12
            )
            for _ in range(2)
        ]
    texts = [[choice.message.content for choice in reply.choices] for reply in both]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_json_fits_its_schema_with_an_alignment(backend: Backend):
    output = Output(constraint=Constraint.json_schema(CITY))
    done = backend.remote.generate(
        [{"role": "user", "content": "Which city is the capital of France?"}],
        "honesty",
        output=output,
        sampling=GREEDY.replace(max_new_tokens=40),
        steering=Steering(policy="paper"),
    )
    assert list(json.loads(done.text)) == ["city"]
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("constraint", [Constraint.regex("(yes|no), [a-z ]{3,12}"), Constraint.lark('start: "a" "b"+')])
def test_a_text_keeps_its_form(backend: Backend, constraint: Constraint):
    done = backend.remote.generate(
        QUESTION,
        "honesty",
        output=Output(constraint=constraint),
        sampling=GREEDY.replace(max_new_tokens=20),
        steering=Steering(policy="paper"),
    )
    assert done.text.startswith(("yes, ", "no, ", "ab"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(backend: Backend, stream: bool):
    asked: dict[str, Any] = {
        "output": Output(tools=(WEATHER,), tool_choice="required"),
        "sampling": GREEDY.replace(max_new_tokens=48),
    }
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    if stream:
        done = [*backend.remote.stream(messages, "honesty", **asked)][-1].completion
    else:
        done = backend.remote.generate(messages, "honesty", **asked)
    assert done is not None
    assert done.finish_reason == "tool_calls"
    (call,) = done.tool_calls
    assert call["function"]["name"] == "weather"
    assert list(call["function"]["arguments"]) == ["city"]


def test_the_model_s_names_are_told(backend: Backend):
    with openai.OpenAI(base_url=f"{backend.url}/v1", api_key="none") as client:
        names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert f"{MODEL}:honesty" in names
    card = httpx.get(f"{backend.url}/v1/models/{MODEL}").json()
    assert card["sda"]["backend"] == {"serve": "sda", "vllm": "vllm"}[backend.kind]
    assert card["sda"]["evaluators"] is (backend.kind == "serve")


def test_an_alias_steers_clients_that_know_nothing_of_it(backend: Backend):
    with openai.OpenAI(base_url=f"{backend.url}/v1", api_key="none") as client:
        plain, aligned = (
            client.chat.completions.create(model=name, messages=QUESTION, temperature=0, max_tokens=16)
            for name in (MODEL, f"{MODEL}:honesty")
        )
    assert plain.choices[0].message.content
    assert aligned.model_extra is not None
    assert aligned.model_extra["sda"]["alignment"] == "honesty"


def test_tokens_are_counted_as_the_engine_counts_them(backend: Backend, smollm2_float32: SteeringEngine):
    assert backend.remote.encode("Wie geht's?") == smollm2_float32.encode("Wie geht's?")
    assert backend.remote.count_prompt_tokens(QUESTION) == smollm2_float32.count_prompt_tokens(QUESTION)
    assert backend.remote.context_window == 2048 if backend.kind == "vllm" else smollm2_float32.context_window


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        ({"alignment": "honesty", "steering": Steering(gain=1e9)}, None, ""),
        ({"sampling": Sampling(max_new_tokens=4)}, ContextLengthError, "tokens"),
    ],
    ids=["a strength beyond reason", "a prompt that is too long"],
)
def test_what_cannot_be_answered_is_told(
    backend: Backend, asked: dict[str, Any], error: type[SDAError] | None, match: str
):
    alignment = asked.pop("alignment", None)
    if error is None:
        done = backend.remote.generate(QUESTION, alignment, sampling=GREEDY.replace(max_new_tokens=4), **asked)
        assert done.usage.completion_tokens <= 4
        return
    long = [{"role": "user", "content": "word " * 9_000}]
    with pytest.raises(error, match=match):
        backend.remote.generate(long, alignment, **asked)


@pytest.mark.parametrize("one", [one for one in DIFFERENCES if one.asks], ids=lambda one: one.what)
def test_what_only_one_of_them_can_is_refused_by_name_by_the_other(backend: Backend, one: Difference):
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 2, **one.asks}
    reply = httpx.post(f"{backend.url}/v1/chat/completions", json=body, timeout=60)
    if backend.kind == "serve":
        assert reply.status_code == 200
    else:
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == one.field


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"sda": {"alignment": "honesty", "gain": -1}}, "sda.gain"),
        ({"sda": {"alignement": "honesty"}}, "sda.alignement"),
        ({"sda": {}, "temperature": -1}, "temperature"),
        ({"sda": {}, "presence_penalty": 1}, "presence_penalty"),
    ],
)
def test_a_wrong_field_is_named(backend: Backend, wrong: dict[str, Any], param: str):
    reply = httpx.post(f"{backend.url}/v1/chat/completions", json={"model": MODEL, "messages": QUESTION, **wrong})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_a_stream_that_is_closed_leaves_the_server_free(backend: Backend):
    stream = backend.remote.stream(QUESTION, "honesty", sampling=Sampling(max_new_tokens=1500))
    assert next(stream) is not None
    stream.close()
    done = backend.remote.generate(QUESTION, sampling=GREEDY.replace(max_new_tokens=2), timeout=30)
    assert done.usage.completion_tokens == 2


class City(BaseModel):
    """A city."""

    city: str


def test_langchain_s_chat_model_runs_unchanged(backend: Backend, smollm2_float32: SteeringEngine):
    settings: dict[str, Any] = {"model": MODEL, "alignment": "honesty", "temperature": 0, "max_tokens": 16}
    here = ChatSDA(engine=smollm2_float32, **_without(settings, "model"))
    there = ChatSDA(base_url=f"{backend.url}/v1", **settings)
    assert there.invoke("Is the earth flat?").content == here.invoke("Is the earth flat?").content
    streamed = "".join(str(piece.content) for piece in there.stream("Is the earth flat?"))
    assert streamed == "".join(str(piece.content) for piece in here.stream("Is the earth flat?"))
    found = there.bind(max_tokens=40).with_structured_output(City).invoke("What is the capital of France?")
    assert isinstance(found, City)


def test_llama_index_s_llm_runs_unchanged(backend: Backend, smollm2_float32: SteeringEngine):
    settings: dict[str, Any] = {"alignment": "honesty", "temperature": 0, "max_tokens": 16}
    here = SDALLM(engine=smollm2_float32, **settings)
    there = SDALLM(base_url=f"{backend.url}/v1", model=MODEL, **settings)
    chat = [ChatMessage(role="user", content="Is the earth flat?")]
    assert there.chat(chat).message.content == here.chat(chat).message.content
    assert [*there.stream_chat(chat)][-1].message.content == [*here.stream_chat(chat)][-1].message.content


async def test_langchain_s_own_client_of_openai_gets_aligned_answers(backend: Backend):
    chat = ChatOpenAI(
        base_url=f"{backend.url}/v1",
        api_key="none",
        model=MODEL,
        temperature=0,
        max_tokens=8,
        extra_body={"sda": {"alignment": "honesty", "policy": "paper"}},
    )
    try:
        answers = await asyncio.gather(*(chat.ainvoke("Is the earth flat?") for _ in range(4)))
    finally:
        await chat.root_async_client.close()
        chat.root_client.close()
    assert all(isinstance(answer, AIMessage) for answer in answers)
    assert len({answer.content for answer in answers}) == 1


def _without(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}
