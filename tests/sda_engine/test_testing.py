"""The test doubles that ship with the package, as users' tests would use them."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pydantic import BaseModel

from sda_engine import Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, ConstraintError, ContextLengthError, RequestTimeoutError, SDAError
from sda_engine.evaluators.reward_model import RewardModelEvaluator
from sda_engine.testing import CHAT_TEMPLATE, ScriptedEngine, ScriptedEvaluator, call_text, tiny_reward_model
from tests.conftest import user
from tests.floats import SCORE

THINKS = CHAT_TEMPLATE + "{# <think> #}"
ROUTES = ("generate", "agenerate", "stream", "astream")


class Author(BaseModel):
    """Who wrote a work."""

    name: str


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


CALL = call_text("add", {"a": 1, "b": 2})


async def ask(route, engine, text="Hi", alignment=None, **settings):
    """The completion by one of the four routes, and the pieces of streams."""
    result = getattr(engine, route)(user(text), alignment, **settings)
    if route == "generate":
        return result, []
    if route == "agenerate":
        return await result, []
    pieces = list(result) if route == "stream" else [piece async for piece in result]
    return pieces[-1].completion, pieces


# --- the script


@pytest.mark.parametrize("route", ROUTES)
async def test_answers_come_in_the_order_of_the_script_and_the_last_one_repeats(route):
    engine = ScriptedEngine(["one", "", "three \N{SNOWMAN}"])
    texts = [(await ask(route, engine))[0].text for _ in range(4)]
    assert texts == ["one", "", "three \N{SNOWMAN}", "three \N{SNOWMAN}"]


def test_one_text_alone_is_a_script_of_one_answer():
    engine = ScriptedEngine("yes")
    assert [engine.generate(user("Hi")).text for _ in range(2)] == ["yes", "yes"]


def test_a_script_may_be_any_iterable():
    engine = ScriptedEngine(str(number) for number in (1, 2))
    assert [engine.generate(user("Hi")).text for _ in range(3)] == ["1", "2", "2"]


@pytest.mark.parametrize("script", [[], (), iter([])])
def test_a_script_without_answers_is_refused(script):
    with pytest.raises(ConfigError, match="A script cannot be empty"):
        ScriptedEngine(script)


@pytest.mark.parametrize("entry", [5, None, b"yes", ("yes",), ("yes", "no"), (ValueError("x"), "yes"), ValueError])
def test_an_entry_that_is_no_answer_is_refused_with_its_value(entry):
    with pytest.raises(ConfigError, match=r"A scripted answer cannot be .*: it must be a text, an exception"):
        ScriptedEngine(["yes", entry])


@pytest.mark.parametrize("route", ROUTES)
async def test_an_exception_reaches_the_caller_as_an_engine_error(route):
    engine = ScriptedEngine([ValueError("the model broke"), "better"])
    with pytest.raises(SDAError, match="the model broke") as caught:
        await ask(route, engine)
    assert isinstance(caught.value.__cause__, ValueError)
    assert (await ask(route, engine))[0].text == "better"


@pytest.mark.parametrize("route", ROUTES)
async def test_an_engine_error_reaches_the_caller_as_it_is(route):
    error = RequestTimeoutError("too slow")
    with pytest.raises(RequestTimeoutError) as caught:
        await ask(route, ScriptedEngine([error]))
    assert caught.value is error


def test_an_exception_after_a_text_comes_after_the_text():
    engine = ScriptedEngine([("Goethe wrote", ValueError("the model broke"))])
    stream = engine.stream(user("Hi"))
    assert "".join(next(stream).text for _ in engine.encode("Goethe wrote")) == "Goethe wrote"
    with pytest.raises(SDAError, match="the model broke"):
        next(stream)


# --- all the rest is real


def test_it_stands_in_for_a_real_engine_and_names_itself():
    engine = ScriptedEngine("yes")
    assert isinstance(engine, SteeringEngine)
    assert engine.name == engine.describe()["model"] == "scripted"


@pytest.mark.parametrize("route", ["stream", "astream"])
async def test_streams_come_token_by_token(route):
    engine = ScriptedEngine("Goethe wrote Faust.")
    completion, pieces = await ask(route, engine)
    assert "".join(piece.text for piece in pieces) == completion.text == "Goethe wrote Faust."
    tokens = engine.encode("Goethe wrote Faust.")
    assert list(completion.token_ids[:-1]) == tokens
    assert completion.usage.completion_tokens == len(tokens) + 1
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("route", ROUTES)
async def test_stop_strings_and_the_token_limit_cut_an_answer_off(route):
    engine = ScriptedEngine("one END two")
    completion, _ = await ask(route, engine, sampling=Sampling(stop=["END"]))
    assert (completion.text, completion.finish_reason) == ("one ", "stop")
    completion, _ = await ask(route, engine, sampling=Sampling(max_new_tokens=3))
    assert completion.text == engine.tokenizer.decode(engine.encode("one END two")[:3])
    assert (completion.finish_reason, completion.usage.completion_tokens) == ("length", 3)


def test_the_context_window_is_the_given_one():
    engine = ScriptedEngine("yes", context_window=64)
    assert engine.context_window == 64
    assert engine.generate(user("Hi")).text == "yes"
    with pytest.raises(ContextLengthError):
        engine.generate(user("word " * 64))


@pytest.mark.parametrize("temperature", [0, 1, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_setting_changes_the_answer(temperature, seed):
    engine = ScriptedEngine("Goethe wrote Faust.")
    sampling = Sampling(temperature=temperature, seed=seed, top_k=2, logprobs=1)
    steering = Steering(amplification=1, gain=5, plausibility=0.1)
    completion = engine.generate(user("Hi"), "honesty", steering=steering, sampling=sampling)
    assert completion.text == "Goethe wrote Faust."
    assert completion.trace.alignment == "honesty"
    assert len(completion.logprobs) == len(completion.token_ids)


def test_requests_are_kept_as_they_were_made():
    engine = ScriptedEngine("yes")
    steering, sampling = Steering(amplification=0.5), Sampling(temperature=0)
    output = Output(tools=[add], tool_choice="none")
    engine.generate(user("Hi"), "honesty", steering=steering, sampling=sampling, output=output)
    engine.generate(user("Ho"))
    first, second = engine.requests
    assert first.alignment.name == "honesty"
    assert (first.messages, first.steering, first.sampling, first.output) == (user("Hi"), steering, sampling, output)
    assert (second.messages, second.alignment, second.output) == (user("Ho"), None, Output())


def test_a_request_that_is_refused_takes_no_answer_from_the_script():
    engine = ScriptedEngine(["one", "two"])
    with pytest.raises(ConfigError):
        engine.generate(user("Hi"), steering="strong")
    with pytest.raises(ConstraintError):
        engine.generate(user("Hi"), output=Output(constraint=Constraint.lark("start: nowhere")))
    assert engine.generate(user("Hi")).text == "one"
    assert len(engine.requests) == 1


def test_closing_a_stream_stops_the_work():
    engine = ScriptedEngine("Goethe wrote Faust. " * 400)
    forwarded = []
    engine.model.register_forward_hook(
        lambda model, args, given, output: forwarded.append(given["input_ids"].shape[1]), with_kwargs=True
    )

    def tokens_meanwhile():
        forwarded.clear()
        engine.generate(user("Hi"), sampling=Sampling(max_new_tokens=24))
        return sum(forwarded)

    tokens_meanwhile()  # from here on the prompt is stored
    alone = tokens_meanwhile()
    stream = engine.stream(user("Hi"), sampling=Sampling(max_new_tokens=8_000))
    next(stream)
    most_in_one_pass = 1 + EngineSettings().proposals
    assert tokens_meanwhile() > alone + most_in_one_pass  # both take part in the passes
    stream.close()
    assert tokens_meanwhile() <= alone + most_in_one_pass  # one pass may have been in hand


# --- tools, schemas, thoughts


def test_call_text_is_what_a_model_without_a_format_of_its_own_writes():
    assert call_text("add", {"a": 1, "b": "ä"}) == (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "ä"}}\n</tool_call>'
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("tool_choice", ["auto", "required", "add"])
async def test_a_scripted_call_is_a_tool_call(route, tool_choice):
    completion, pieces = await ask(route, ScriptedEngine(CALL), output=Output(tools=[add], tool_choice=tool_choice))
    (call,) = completion.tool_calls
    assert call["function"] == {"name": "add", "arguments": {"a": 1, "b": 2}}
    assert (completion.text, completion.finish_reason) == ("", "tool_calls")
    if pieces:
        parts = [part for piece in pieces for part in piece.tool_calls]
        assert json.loads("".join(part.arguments for part in parts)) == {"a": 1, "b": 2}
        assert len(parts) > 3


def test_a_scripted_call_is_text_where_no_tools_are_given():
    completion = ScriptedEngine(CALL).generate(user("Hi"))
    assert (completion.text, completion.tool_calls) == (CALL, ())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (call_text("sub", {"a": 1, "b": 2}), Output(tools=[add])),
        (call_text("add", {"a": "one", "b": 2}), Output(tools=[add])),
        (call_text("add", {"b": 2, "a": 1}), Output(tools=[add])),
        ("The sum is 3.", Output(tools=[add], tool_choice="required")),
        ("Goethe", Output(constraint=Constraint.json_schema(Author))),
        ('{"name":"Goethe"}', Output(constraint=Constraint.json_schema(Author))),
        ('{"name": "Goethe", "born": 1749}', Output(constraint=Constraint.json_schema(Author))),
        ('{"name": "Goe', Output(constraint=Constraint.json_schema(Author))),
        ("perhaps", Output(constraint=Constraint.regex("yes|no"))),
    ],
    ids=["name", "type", "order", "text", "no JSON", "style", "key", "unfinished", "regex"],
)
async def test_an_answer_that_does_not_fit_what_is_asked_for_is_an_error(route, answer, output):
    with pytest.raises(ConstraintError, match=r"The scripted answer .* does not fit the form that the call asks for"):
        await ask(route, ScriptedEngine(answer), output=output)


def test_an_answer_may_be_an_object_or_a_call_where_both_are_asked_for():
    engine = ScriptedEngine(['{"name": "Goethe"}', CALL])
    output = Output(tools=[add], constraint=Constraint.json_schema(Author))
    assert Author.model_validate_json(engine.generate(user("Hi"), output=output).text) == Author(name="Goethe")
    assert engine.generate(user("Hi"), output=output).tool_calls


@pytest.mark.parametrize("route", ROUTES)
async def test_a_call_that_the_token_limit_cuts_off_is_an_invalid_one(route):
    completion, _ = await ask(
        route, ScriptedEngine(CALL), output=Output(tools=[add]), sampling=Sampling(max_new_tokens=30)
    )
    assert (completion.tool_calls, completion.finish_reason) == ((), "length")
    (invalid,) = completion.invalid_tool_calls
    assert CALL.removeprefix("<tool_call>").startswith(invalid["text"])


@pytest.mark.parametrize("route", ROUTES)
async def test_a_template_that_mentions_think_makes_a_model_that_thinks(route):
    engine = ScriptedEngine("<think>hm</think>Yes.", chat_template=THINKS)
    assert engine.thinks
    completion, pieces = await ask(route, engine)
    assert (completion.reasoning, completion.text) == ("hm", "Yes.")
    if pieces:
        assert "".join(piece.reasoning for piece in pieces) == "hm"
    assert not ScriptedEngine("yes").thinks


def test_a_model_that_thinks_may_think_before_an_object():
    engine = ScriptedEngine('<think>hm</think>{"name": "Goethe"}', chat_template=THINKS)
    completion = engine.generate(user("Hi"), output=Output(constraint=Constraint.json_schema(Author)))
    assert (completion.reasoning, completion.text) == ("hm", '{"name": "Goethe"}')


# --- evaluators


@pytest.mark.parametrize("route", ROUTES)
async def test_an_evaluator_reads_the_same_text_as_base_response(route):
    evaluator = ScriptedEvaluator([80])
    engine = ScriptedEngine(["one", "two"])
    for text in ("one", "two"):
        completion, _ = await ask(route, engine, alignment="honesty", steering=Steering(evaluator=evaluator))
        assert (completion.text, completion.base_response, completion.score.value) == (text, text, 80)
        assert completion.usage.base_response_tokens == completion.usage.completion_tokens
    assert [request.response for request in evaluator.requests] == ["one", "two"]


def test_an_exception_strikes_already_in_the_base_response():
    evaluator = ScriptedEvaluator([80])
    engine = ScriptedEngine([("one", ValueError("the model broke"))])
    with pytest.raises(SDAError, match="the model broke"):
        engine.generate(user("Hi"), "honesty", steering=Steering(evaluator=evaluator))
    assert evaluator.requests == []


def test_a_base_response_that_is_accepted_is_the_answer():
    steering = Steering(evaluator=ScriptedEvaluator([95]), accept_score=90)
    completion = ScriptedEngine(CALL).generate(user("Hi"), "honesty", steering=steering, output=Output(tools=[add]))
    assert completion.tool_calls[0]["function"]["name"] == "add"


# --- side by side


async def test_requests_side_by_side_each_get_an_answer_of_their_own():
    engine = ScriptedEngine(["one", "two", "three"])
    together = await asyncio.gather(*(engine.agenerate(user(text)) for text in "abc"))
    texts = {request.messages[0]["content"]: each.text for request, each in zip(engine.requests, together, strict=True)}
    assert texts == {"a": "one", "b": "two", "c": "three"}


def test_threads_share_one_script():
    script = [str(number) for number in range(12)]
    engine = ScriptedEngine(script)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda text: engine.generate(user(text)).text, script))
    assert sorted(texts, key=int) == script
    assert len(engine.requests) == len(script)


# --- the reward model


@pytest.mark.parametrize("labels", [("reward",), ("bad", "good"), ("bad", "fair", "good")])
def test_a_tiny_reward_model_makes_an_evaluator_with_these_labels(labels):
    pair = tiny_reward_model(labels=labels)
    scores = {}
    for label in labels:
        with ScriptedEngine("Hello.") as engine:
            steering = Steering(evaluator=RewardModelEvaluator(pair, label=label))
            scores[label] = engine.generate(user("Hi"), "honesty", steering=steering).score.value
    assert len(set(scores.values())) == len(labels)
    if len(labels) > 1:
        assert sum(scores.values()) == pytest.approx(100.0, abs=len(labels) * SCORE)


def test_the_seed_alone_decides_the_weights_of_a_tiny_reward_model():
    state = torch.get_rng_state()
    first, second, other = (tiny_reward_model(seed=seed)[0].score.weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tiny_reward_model_has_the_window_and_the_template_asked_for():
    model, tokenizer = tiny_reward_model(context_window=64, chat_template=None)
    assert model.config.max_position_embeddings == 64
    assert tokenizer.chat_template is None
