"""RemoteEngine over the real server, against the engine in this process that answers there."""

import asyncio
from dataclasses import replace

import pytest

from sda_engine import (
    Alignment,
    Constraint,
    EngineSettings,
    Output,
    RemoteEngine,
    Revision,
    Sampling,
    ServerEvaluator,
    Steering,
    SteeringEngine,
)
from sda_engine.errors import ConfigError, ContextLengthError, ModelLoadError
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.results import Trace, TraceMeans
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.servers import serving

KEY = "a-key-0123456789"
QUESTION = user("what is in the library?")
GREEDY = Sampling(temperature=0, max_new_tokens=8)
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"enum": ["a", "b"]}}, "required": ["word"]},
    },
}
KIND = Alignment(instruction="be kind", avoid="rude words")
ASKED = {
    "plain": {"sampling": GREEDY},
    "steered": {"alignment": KIND, "steering": Steering(gain=1.5), "sampling": GREEDY},
    "sampled": {"alignment": "honesty", "sampling": Sampling(seed=3, top_k=9, max_new_tokens=8, logprobs=2)},
    "combined": {"alignment": {"honesty": 1.0, "empathy": 0.5}, "sampling": GREEDY},
    "rated": {
        "alignment": "honesty",
        "steering": Steering(evaluator=ContrastiveEvaluator(sharpness=2.0)),
        "sampling": GREEDY,
    },
    "chosen": {
        "alignment": "honesty",
        "steering": Steering(policy="revise", revisions=(Revision(factor=1.5),)),
        "sampling": GREEDY,
    },
    "called": {
        "sampling": GREEDY.replace(max_new_tokens=90),
        "output": Output(tools=[TOOL], tool_choice="look_up"),
    },
    "formed": {
        "sampling": GREEDY.replace(max_new_tokens=40),
        "output": Output(constraint=Constraint.json_schema({"enum": ["yes", "no"]})),
    },
    "cut off": {
        "sampling": GREEDY.replace(max_new_tokens=40),
        "output": Output(tools=[TOOL], tool_choice="look_up"),
    },
    "by expression": {"sampling": GREEDY, "output": Output(constraint=Constraint.regex("(ab)+"))},
}


@pytest.fixture(scope="module")
def engine():
    """One that stores no prompts: what is reused of one may change the last bits of numbers."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), context_window=1024)
    with SteeringEngine(model, tokenizer, settings=EngineSettings(prefix_cache=False)) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(engine):
    with serving(engine, api_keys=(KEY,), served_model_name="tiny") as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def remote(url):
    with RemoteEngine(url, model="tiny", api_key=KEY, trace=True) as engine:
        yield engine


def comparable(done):
    """An answer without the ids of calls, which are random."""
    calls, invalid = (tuple({**call, "id": ""} for call in some) for some in (done.tool_calls, done.invalid_tool_calls))
    return replace(done, tool_calls=calls, invalid_tool_calls=invalid)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_whole_answers_are_those_of_the_engine(engine, remote, asked) -> None:
    assert comparable(remote.generate(QUESTION, **asked)) == comparable(engine.generate(QUESTION, **asked))


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_streams_are_those_of_the_engine(engine, remote, asked) -> None:
    got = [piece async for piece in remote.astream(QUESTION, **asked)]
    wanted = list(engine.stream(QUESTION, **asked))
    assert comparable(got[-1].completion) == comparable(wanted[-1].completion)
    for part in ("text", "reasoning"):
        assert "".join(getattr(one, part) for one in got) == "".join(getattr(one, part) for one in wanted)
    assert [token for one in got for token in one.token_ids] == [token for one in wanted for token in one.token_ids]


def test_facts_and_tokens_are_those_of_the_engine(engine, remote) -> None:
    for fact in ("context_window", "thinks", "reads_pictures", "template_variables"):
        assert getattr(remote, fact) == getattr(engine, fact)
    output = Output(tools=[TOOL], constraint=Constraint.json_schema({"type": "object"}))
    assert remote.encode("the library <s> hello") == engine.encode("the library <s> hello")
    for form in (Output(), output):
        assert remote.count_prompt_tokens(QUESTION, output=form) == engine.count_prompt_tokens(QUESTION, output=form)


def test_without_a_trace_the_means_come(engine, url) -> None:
    with RemoteEngine(url, model="tiny", api_key=KEY) as remote:
        done = remote.generate(QUESTION, KIND, sampling=GREEDY)
    trace = engine.generate(QUESTION, KIND, sampling=GREEDY).trace
    assert done.trace == Trace(
        (), trace.alignment, trace.strength, means=TraceMeans(trace.mean_divergence, trace.mean_temperature)
    )


def test_errors_are_those_of_the_engine(engine, remote) -> None:
    long = user("library " * engine.context_window)
    for kind, asked in (
        (ContextLengthError, {"messages": long}),
        (ConfigError, {"messages": QUESTION, "template_kwargs": {"no_such": 1}}),
        (ConfigError, {"messages": QUESTION, "adapter": "no-such"}),
    ):
        with pytest.raises(kind) as here:
            engine.generate(**asked)
        with pytest.raises(kind) as there:
            remote.generate(**asked)
        assert type(there.value) is type(here.value)


def test_keys_models_and_evaluators_that_the_server_does_not_know_are_named(url, remote) -> None:
    with pytest.raises(ConfigError, match="SDA_API_KEY"):
        RemoteEngine(url, model="tiny", api_key="another-key-0123").generate(QUESTION)
    with pytest.raises(ModelLoadError, match="tiny"):
        RemoteEngine(url, model="no-such", api_key=KEY).connect()
    with pytest.raises(ModelLoadError, match="tiny"):
        remote.for_model("no-such").generate(QUESTION)
    with pytest.raises(ConfigError, match="no-such"):
        remote.generate(QUESTION, "honesty", steering=Steering(evaluator=ServerEvaluator("no-such")))


async def test_a_stream_that_is_closed_frees_its_rows(engine, remote) -> None:
    stream = remote.astream(QUESTION, sampling=Sampling(max_new_tokens=400, seed=1))
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(20):
        while engine.stats().requests:
            await asyncio.sleep(0.01)
