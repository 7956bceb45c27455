"""Score-guided requests at a server without evaluators: the client runs the stages, and its evaluator rates."""

import asyncio
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from sda_engine import (
    Alignment,
    EngineSettings,
    Output,
    RemoteEngine,
    Revision,
    Sampling,
    Steering,
    SteeringEngine,
)
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import CachedEvaluator, EnsembleEvaluator, FixedScore, SelfRatingEvaluator
from sda_engine.results import Completion
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.sda_engine.remote.scripted import rated
from tests.servers import serving

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
FAILED = EvaluationError("no verdict")


class BlindEngine(SteeringEngine):
    """An engine whose server tells that nobody rates there."""

    backend = "vllm"
    has_evaluators = False


class Somebody:
    """A model in this process, to which all ratings are alike."""

    def continuation_logprobs(self, _, continuations) -> torch.Tensor:
        return torch.full((len(continuations),), -3.0)

    async def acontinuation_logprobs(self, messages, continuations) -> torch.Tensor:
        return self.continuation_logprobs(messages, continuations)

    def __repr__(self) -> str:
        return "Somebody()"


@pytest.fixture(scope="module")
def engine():
    """One that stores no prompts: what is reused of one may change the last bits of numbers."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), context_window=1024)
    with BlindEngine(model, tokenizer, settings=EngineSettings(prefix_cache=False)) as engine:
        yield engine


@pytest.fixture(scope="module")
def remote(engine):
    with (
        serving(engine, served_model_name="tiny") as url,
        RemoteEngine(f"{url}/v1", model="tiny", trace=True) as remote,
    ):
        yield remote


def alike(one: object, other: object) -> bool:
    """Whether two answers are the same but for the ids of calls, which are random, and the last bits of numbers.

    Those are other ones where a prompt is read by two requests, and not by one in two passes.
    """
    if is_dataclass(one) and is_dataclass(other):
        return type(one) is type(other) and all(
            alike(getattr(one, part.name), getattr(other, part.name)) for part in fields(one) if part.compare
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(key == "id" or alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, abs=1e-4) if isinstance(other, float) else other)


# Each of them makes the options anew, with an evaluator that has rated nothing
ASKED = {
    "greedy": lambda: {"steering": rated([20], policy="paper"), "sampling": GREEDY},
    "sampled": lambda: {
        "steering": rated([35], policy="budget", gain=3.0, temperature_schedule="constant", guard="report"),
        "sampling": Sampling(seed=5, top_k=20, max_new_tokens=8, logprobs=2),
    },
    "by a curve of this process": lambda: {
        "steering": rated([35], policy="paper", amplification_curve=lambda score: score / 100),
        "sampling": GREEDY,
    },
    "accepted": lambda: {"steering": rated([80], policy="paper", accept_score=80.0), "sampling": GREEDY},
    "not accepted": lambda: {"steering": rated([79], policy="paper", accept_score=80.0), "sampling": GREEDY},
    "without a score": lambda: {
        "steering": rated([FAILED], policy="paper", on_evaluator_error="instruct_only", accept_score=1.0),
        "sampling": GREEDY,
    },
    "with one in its place": lambda: {
        "steering": rated([FAILED], policy="paper", on_evaluator_error="fixed", accept_score=1.0),
        "sampling": GREEDY,
    },
    "without a base response": lambda: {
        "steering": rated([30], policy="paper", needs={"needs_response": False}),
        "sampling": GREEDY,
    },
    "in the system's turn": lambda: {
        "steering": rated([30], policy="paper", placement="system", scope="all"),
        "sampling": GREEDY,
        "alignment": Alignment(instruction="be kind", avoid="rude words"),
    },
    "with a call": lambda: {
        "steering": rated([30], policy="paper", scope="all"),
        "sampling": GREEDY.replace(max_new_tokens=90),
        "output": Output(tools=[TOOL], tool_choice="look_up"),
    },
    "an accepted call": lambda: {
        "steering": rated([90], policy="paper", accept_score=80.0),
        "sampling": GREEDY.replace(max_new_tokens=90),
        "output": Output(tools=[TOOL], tool_choice="look_up"),
    },
    "a fixed score": lambda: {"steering": Steering(policy="paper", evaluator=FixedScore(30)), "sampling": GREEDY},
    "a fixed amplification": lambda: {"steering": Steering(policy="paper", amplification=0.5), "sampling": GREEDY},
    "an ensemble": lambda: {
        "steering": Steering(
            policy="paper", evaluator=EnsembleEvaluator([ScriptedEvaluator([20]), ScriptedEvaluator([40])])
        ),
        "sampling": GREEDY,
    },
    "a cache": lambda: {
        "steering": Steering(policy="paper", evaluator=CachedEvaluator(ScriptedEvaluator([20]))),
        "sampling": GREEDY,
    },
    "a model that rates here": lambda: {
        "steering": Steering(policy="paper", evaluator=SelfRatingEvaluator(Somebody())),
        "sampling": GREEDY,
    },
}


@pytest.mark.parametrize("make", ASKED.values(), ids=ASKED)
def test_whole_answers_are_those_of_the_engine(engine, remote, make) -> None:
    here, there = ({"alignment": "honesty", **make()} for _ in range(2))
    assert alike(remote.generate(QUESTION, **here), engine.generate(QUESTION, **there))


@pytest.mark.parametrize("make", ASKED.values(), ids=ASKED)
async def test_streams_are_those_of_the_engine(engine, remote, make) -> None:
    here, there = ({"alignment": "honesty", **make()} for _ in range(2))
    got = [piece async for piece in remote.astream(QUESTION, **here)]
    wanted = [piece async for piece in engine.astream(QUESTION, **there)]
    assert alike(got[-1].completion, wanted[-1].completion)
    for part in ("text", "reasoning"):
        assert "".join(getattr(one, part) for one in got) == "".join(getattr(one, part) for one in wanted)
    assert [token for one in got for token in one.token_ids] == list(wanted[-1].completion.token_ids)
    assert [token for one in got for token in one.trace] == list(got[-1].completion.trace.tokens)
    assert tuple(token for one in got for token in one.logprobs) == (got[-1].completion.logprobs or ())


async def test_threads_and_event_loops_get_the_same(remote) -> None:
    asked = {"alignment": "honesty", **ASKED["sampled"]()}
    done = await remote.agenerate(QUESTION, **asked)
    assert await asyncio.to_thread(remote.generate, QUESTION, **asked) == done
    pieces = await asyncio.to_thread(lambda: list(remote.stream(QUESTION, **asked)))
    assert pieces[-1].completion == done
    assert len(pieces) > 2


async def test_many_at_once_do_not_mix(remote) -> None:
    async def ask(score: float) -> Completion:
        return await remote.agenerate(QUESTION, "honesty", steering=rated([score]), sampling=GREEDY)

    scores = [10.0, 30.0, 50.0, 70.0, 90.0]
    assert [done.score.value for done in await asyncio.gather(*map(ask, scores))] == scores


def test_an_accepted_base_response_is_one_piece(remote) -> None:
    (piece,) = remote.stream(QUESTION, "honesty", **ASKED["accepted"]())
    done = piece.completion
    assert (done.amplification, done.trace.strength, done.usage.base_response_tokens) == (None, 0.0, 0)
    assert piece.text == done.text == done.base_response


def test_the_evaluator_is_shown_what_the_engine_shows_it(engine, remote) -> None:
    tools = {"sampling": GREEDY.replace(max_new_tokens=90), "output": Output(tools=[TOOL], tool_choice="look_up")}
    shown = []
    for one in (engine, remote):
        evaluator = ScriptedEvaluator([50])
        one.generate(QUESTION, "empathy", steering=Steering(evaluator=evaluator, scope="all"), **tools)
        (request,) = evaluator.requests
        shown.append((request.messages, request.response, request.alignment, request.salt))
    assert shown[0] == shown[1]
    assert '"look_up"' in shown[0][1]


def test_without_a_trace_the_means_of_the_answer_come(engine, remote) -> None:
    with RemoteEngine(remote.base_url, model="tiny") as plain:
        for name in ("greedy", "accepted"):
            done = plain.generate(QUESTION, "honesty", **ASKED[name]())
            trace = engine.generate(QUESTION, "honesty", **ASKED[name]()).trace
            assert done.trace.tokens == ()
            assert (done.trace.alignment, done.trace.strength) == (trace.alignment, trace.strength)
            assert done.trace.mean_divergence == pytest.approx(trace.mean_divergence)


# --- Revisions ---


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=9, max_new_tokens=8)], ids=["greedy", "sampled"])
def test_revisions_are_those_of_the_engine_and_the_base_response_is_counted_as_often_as_it_was_decoded(
    engine, remote, sampling
) -> None:
    revisions = (Revision(factor=1.5), Revision(factor=3.0))
    here, there = (rated([20], policy="revise", revisions=revisions, keep="nothing") for _ in range(2))
    done = remote.generate(QUESTION, "honesty", steering=here, sampling=sampling)
    wanted = engine.generate(QUESTION, "honesty", steering=there, sampling=sampling)
    assert len(done.attempts) == 2
    base = len(engine.generate(QUESTION, sampling=sampling).token_ids)
    assert done.usage.base_response_tokens == wanted.usage.base_response_tokens + base
    assert alike(replace(done, usage=wanted.usage), wanted)
