"""Score-guided requests at a server without evaluators: what is asked of it, and what is refused or fails."""

import asyncio
import json
from dataclasses import replace

import pytest
from PIL import Image

from sda_engine import Sampling, ServerEvaluator, Steering
from sda_engine.config import NoEffectWarning
from sda_engine.errors import ConfigError, EvaluationError, MessageError
from sda_engine.evaluators import (
    CachedEvaluator,
    ContrastiveEvaluator,
    EnsembleEvaluator,
    FixedScore,
    OpenAIEvaluator,
    SelfRatingEvaluator,
    UncertaintyEvaluator,
)
from sda_engine.output import InvalidToolCall
from sda_engine.pictures import Picture
from sda_engine.remote.server import ModelFacts
from sda_engine.remote.stages import Stages
from sda_engine.request_settings import RequestSettings
from sda_engine.results import Completion, Trace, Usage
from sda_engine.testing import ScriptedEvaluator
from tests.conftest import user
from tests.sda_engine.remote.scripted import DONE, card, fault, rated, streamed, whole

QUESTION = user("what is in the library?")
FAILED = EvaluationError("no verdict")


@pytest.mark.default_policy
@pytest.mark.parametrize(("policy", "is_sent"), [("revise", True), ("auto", True), ("paper", False), ("budget", False)])
def test_the_response_that_is_revised_is_the_one_that_was_rated(blind, policy, is_sent) -> None:
    blind.engine().generate(QUESTION, "honesty", steering=rated([20], policy=policy))
    seeds = [body.get("seed") for body in blind.bodies]
    assert len(seeds) == 2
    assert seeds[0] == seeds[1]
    assert (seeds[0] is not None) is is_sent


def test_a_seed_of_the_request_is_kept(blind) -> None:
    blind.engine().generate(QUESTION, "honesty", steering=rated([20]), sampling=Sampling(seed=7))
    assert [body["seed"] for body in blind.bodies] == [7, 7]


def test_two_requests_ask_for_a_plain_answer_and_for_one_of_a_fixed_amplification(blind) -> None:
    blind.script = [whole(), streamed()]
    steering = rated(
        [50], policy="paper", gain=3.0, accept_score=90.0, on_evaluator_error="fixed", amplification_curve="linear",
        placement="system", guard="report",
    )  # fmt: skip
    stream = blind.engine(trace=True).stream(
        QUESTION,
        "empathy",
        steering=steering,
        sampling=Sampling(temperature=0.5, max_new_tokens=9, seed=7, top_k=5, logprobs=1),
        template_kwargs={"enable_thinking": False},
        adapter="poet",
        timeout=50,
    )
    assert list(stream)[-1].completion.amplification == DONE.amplification
    assert blind.paths == ["/v1/models/m", *["/v1/chat/completions"] * 2]
    base, steered = blind.bodies
    assert "stream" not in base
    assert (steered.pop("stream"), steered.pop("stream_options")) == (True, {"include_usage": True})
    ours = [body.pop("sda") for body in (base, steered)]
    assert base == steered
    assert (base["seed"], base["temperature"], base["logprobs"]) == (7, 0.5, True)
    for sda in ours:
        assert 40 < sda.pop("timeout") <= 50
    alignment = ours[1].pop("alignment")
    assert alignment["name"] == "empathy"
    common = {
        "policy": "paper", "guard": "report", "top_k": 5, "template_kwargs": {"enable_thinking": False},
        "adapter": "poet", "token_ids": True, "trace": True,
    }  # fmt: skip
    assert ours[0] == {**common, "alignment": None}
    assert ours[1] == {**common, "gain": 3.0, "placement": "system", "amplification": 0.5}


async def test_pictures_are_read_once_for_the_evaluator_and_both_requests(blind) -> None:
    shown = Image.new("RGB", (2, 2), "red")
    chat = [{"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": "What?"}]}]
    steering = rated([20])
    await blind.engine().agenerate(chat, "honesty", steering=steering)
    base, steered = (body["messages"] for body in blind.bodies)
    assert base == steered
    assert base[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    ((part, text),) = (message["content"] for message in steering.evaluator.requests[0].messages)
    assert isinstance(part["picture"], Picture)
    assert text["text"] == "What?"


@pytest.mark.parametrize(
    "steering", [Steering(), Steering(evaluator=FixedScore(30)), Steering(amplification=0.5), Steering(gain=1.0)]
)
def test_what_needs_no_rating_takes_one_request_and_no_look_at_the_card(blind, steering) -> None:
    blind.engine().generate(QUESTION, "honesty", steering=steering)
    assert blind.paths == ["/v1/chat/completions"]


def test_a_plain_answer_is_asked_for_at_once_whoever_would_rate(blind) -> None:
    evaluator = ScriptedEvaluator([20])
    with pytest.warns(NoEffectWarning, match="evaluator"):
        blind.engine().generate(QUESTION, steering=Steering(evaluator=evaluator))
    assert blind.paths == ["/v1/chat/completions"]
    assert evaluator.requests == []


def test_tokens_are_counted_over_all_stages(blind) -> None:
    base = replace(DONE, usage=Usage(prompt_tokens=7, completion_tokens=5, cached_prompt_tokens=2))
    steered = replace(DONE, usage=Usage(prompt_tokens=7, completion_tokens=3, cached_prompt_tokens=6))
    blind.script = [whole(base), whole(steered)]
    done = blind.engine().generate(QUESTION, "honesty", steering=rated([20]))
    assert done.usage == Usage(7, 3, base_response_tokens=5, cached_prompt_tokens=2)  # the rest was stored by the base


def test_the_card_is_looked_at_once(blind) -> None:
    engine = blind.engine()
    for _ in range(2):
        engine.generate(QUESTION, "honesty", steering=rated([20]))
    assert blind.paths.count("/v1/models/m") == 1


def test_a_server_that_has_evaluators_or_does_not_tell_is_given_their_names(server) -> None:
    for told in (card(evaluators=True), card()):
        server.card = told
        server.engine().generate(QUESTION, "honesty", steering=Steering(evaluator=ServerEvaluator("judge")))
    assert [body["sda"]["evaluator"] for body in server.bodies] == ["judge", "judge"]


# --- Refusals ---


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (Steering(evaluator=ContrastiveEvaluator()), r"ContrastiveEvaluator\(.*look inside the model.*\(vllm\)"),
        (Steering(evaluator=UncertaintyEvaluator()), "look inside the model"),
        (Steering(evaluator=SelfRatingEvaluator()), r"amplification=\.\.\..*sda serve"),
        (Steering(evaluator=ServerEvaluator("judge")), "judge has to look inside the model.*OpenAIEvaluator"),
        (Steering(evaluator=CachedEvaluator(SelfRatingEvaluator())), "look inside the model"),
        (
            Steering(evaluator=EnsembleEvaluator([FixedScore(1), ServerEvaluator("judge")])),
            "EnsembleEvaluator.*look inside the model",
        ),
        (rated([20], needs={"needs_logprobs": True}), "look inside the model"),
        (Steering(chooser=ScriptedEvaluator([20])), "Steering.chooser=ScriptedEvaluator.*Leave the chooser out"),
        (Steering(chooser=ContrastiveEvaluator()), "no evaluators"),
        (
            rated([20], temperature_schedule=lambda signals: signals.divergence),
            "temperature_schedule is a function of this process",
        ),
        (rated([20], keep=lambda check: True), "keep is a function of this process"),
    ],
)
async def test_what_such_a_server_cannot_do_is_refused_before_an_answer_is_asked_for(blind, steering, message) -> None:
    engine = blind.engine()
    with pytest.raises(ConfigError, match=message) as caught:
        await engine.agenerate(QUESTION, "honesty", steering=steering)
    assert caught.value.field in ("evaluator", "chooser", "temperature_schedule", "keep")
    with pytest.raises(ConfigError, match=message):
        await asyncio.to_thread(engine.stream, QUESTION, "honesty", steering=steering)
    assert blind.paths == ["/v1/models/m"]


def test_malformed_messages_are_refused_before_the_server_is_asked_anything(blind) -> None:
    with pytest.raises(MessageError):
        blind.engine().stream([{"role": "wizard", "content": "hi"}], "honesty", steering=rated([20]))
    assert blind.paths == []


# --- Failures ---


@pytest.mark.parametrize("way", ["generate", "stream", "agenerate", "astream"])
async def test_a_failing_evaluator_is_an_error_with_the_base_response(blind, way) -> None:
    async def ask() -> object:
        method, asked = getattr(blind.engine(), way), {"alignment": "honesty", "steering": rated([FAILED])}
        if way == "agenerate":
            return await method(QUESTION, **asked)
        if way == "astream":
            return [piece async for piece in method(QUESTION, **asked)]
        return await asyncio.to_thread(
            lambda: [*method(QUESTION, **asked)] if way == "stream" else method(QUESTION, **asked)
        )

    with pytest.raises(EvaluationError, match=r"no verdict.*instruct_only") as caught:
        await ask()
    assert caught.value.base_response == DONE.text
    assert blind.calls == 1


@pytest.mark.parametrize("nothing", [None, "80", 80.0])
def test_what_is_no_score_is_a_failure(blind, nothing) -> None:
    evaluator = ScriptedEvaluator([50])
    evaluator.evaluate = lambda _: nothing
    with pytest.raises(EvaluationError, match="in place of a Score"):
        blind.engine().generate(QUESTION, "honesty", steering=Steering(evaluator=evaluator))


def test_a_curve_that_gives_no_amplification_is_an_error_after_the_rating(blind) -> None:
    with pytest.raises(ConfigError, match="curve"):
        blind.engine().generate(QUESTION, "honesty", steering=rated([20], amplification_curve=lambda _: 7.0))
    assert blind.calls == 1


@pytest.mark.parametrize(
    ("usage", "thought", "thinks", "remedy"),
    [
        (Usage(prompt_tokens=7, completion_tokens=3), "", False, r"Use max_new_tokens \(max_tokens\) above 3\."),
        (Usage(prompt_tokens=74, completion_tokens=3), "", False, "Use a shorter prompt"),
        (
            Usage(prompt_tokens=7, completion_tokens=3), "Hm", True,
            "a thought filled all 3 tokens.*max_reasoning_tokens well below 3.*enable_thinking",
        ),
    ],
)  # fmt: skip
def test_a_base_response_that_was_cut_off_before_it_said_anything_is_an_error_with_the_remedies(
    blind, usage, thought, thinks, remedy
) -> None:
    blind.card = card(evaluators=False, thinks=thinks, template_variables=["enable_thinking"])
    blind.script = [whole(replace(DONE, text=" ", finish_reason="length", usage=usage, reasoning=thought))]
    evaluator = ScriptedEvaluator([50])
    with pytest.raises(EvaluationError, match=remedy):
        blind.engine().generate(QUESTION, "honesty", steering=Steering(evaluator=evaluator))
    assert evaluator.requests == []


def test_calls_that_do_not_fit_their_schema_are_rated_too_and_those_that_were_cut_off_are_not() -> None:
    facts = ModelFacts(77, False, False, frozenset(), None, "vllm", has_evaluators=False)
    settings = RequestSettings.of("honesty", {"steering": rated([50])}, whole=True)
    stages = Stages("m", QUESTION, settings, facts)
    functions = [{"name": "look_up", "arguments": {"word": word}} for word in "abc"]
    misfit = [
        InvalidToolCall(index=place, id="", name="look_up", text=json.dumps(functions[place]), error="no")
        for place in (0, 2)
    ]
    cut = InvalidToolCall(index=3, id="", name="look_up", text='{"name": "look_up", "argum', error="cut off")
    odd = InvalidToolCall(index=4, id="", name=None, text='["look_up"]', error="none")
    stages.base = Completion(
        "Wait.", (1,), "tool_calls", Usage(1, 1), Trace(()),
        tool_calls=({"type": "function", "id": "", "function": functions[1]},),
        invalid_tool_calls=(misfit[1], misfit[0], cut, odd),
    )  # fmt: skip
    assert stages.evaluation_request().response == "\n".join(["Wait.", *map(json.dumps, functions)])


def test_a_busy_server_is_asked_again_at_each_stage(blind) -> None:
    blind.script = [fault(503), whole(), fault(429), whole()]
    done = blind.engine().generate(QUESTION, "honesty", steering=rated([20]))
    assert done.score.value == 20.0
    assert blind.calls == 4


# --- A judge with its key ---


def test_a_judge_rates_from_here_and_the_server_never_sees_its_key(blind, http) -> None:
    verdict = json.dumps({"score": 40, "reason": "It guesses."})
    reply = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}],
    }  # fmt: skip
    http.expect_request("/judge/chat/completions", method="POST").respond_with_json(reply)
    judge = OpenAIEvaluator("judge", base_url=http.url_for("/judge"), api_key="a-judges-key")
    done = blind.engine(api_key="the-servers-key").generate(QUESTION, "honesty", steering=Steering(evaluator=judge))
    assert (done.score.value, done.score.reason, done.score.usage.calls) == (40.0, "It guesses.", 1)
    assert done.base_response == DONE.text
    assert "a-judges-key" not in json.dumps([blind.bodies, blind.headers])
