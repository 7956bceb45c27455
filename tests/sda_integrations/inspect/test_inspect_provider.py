"""The provider as Inspect calls it, over scripted engines and a tiny real one."""

import asyncio
import json

import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ResponseSchema,
    get_model,
)
from inspect_ai.tool import ToolInfo, ToolParams, tool
from inspect_ai.util import json_schema

from sda_engine import EngineSettings, SteeringEngine
from sda_engine.errors import ConfigError, EvaluationError, InvalidOutputError, MessageError
from sda_engine.evaluators import FixedScore
from sda_engine.testing import ScriptedEvaluator, call_text, tiny_engine
from sda_integrations.inspect import SDAModelAPI
from tests.sda_integrations.inspect.asking import HI, api_of, ask

NUMBER = ToolParams(properties={"n": json_schema(int)}, required=["n"])
DOUBLE = ToolInfo(name="double", description="Doubles.", parameters=NUMBER)


@tool
def double():
    async def execute(n: int) -> str:
        """Double a number.

        Args:
            n: The number.
        """
        return str(2 * n)

    return execute


async def test_an_answer_comes_with_usage_and_a_record_of_the_call(scripted) -> None:
    engine = scripted("Yes, it is.")
    api = api_of(engine, alignment="honesty", amplification=0.5)
    output, call = await api.generate(HI, [], "none", GenerateConfig(temperature=0.0))
    assert output.completion == "Yes, it is."
    assert output.stop_reason == "stop"
    assert output.model == "scripted"
    assert output.usage.input_tokens == engine.count_prompt_tokens([{"role": "user", "content": "Hi"}])
    assert output.metadata["sda"]["alignment"] == "honesty"
    assert "".join(token["text"] for token in output.metadata["sda"]["tokens"]) == "Yes, it is."
    assert call.request["messages"] == [{"role": "user", "content": "Hi"}]
    assert call.request["temperature"] == 0.0
    json.dumps(call.request)


async def test_the_models_own_arguments_hold_for_every_call_and_extra_body_for_one(scripted) -> None:
    engine = scripted()
    api = api_of(engine, alignment="honesty", gain=3.0, evaluator="fixed:20", min_p=0.1)
    await ask(api)
    await ask(api, extra_body={"alignment": "empathy", "amplification": 0.5, "steering": {"gain": 1.0}, "min_p": 0.2})
    await ask(api, extra_body={"alignment": None})
    own, other, plain = engine.requests
    assert (own.alignment.name, own.steering.gain, own.sampling.min_p) == ("honesty", 3.0, 0.1)
    assert own.steering.evaluator.name == FixedScore(20).name
    assert (other.alignment.name, other.steering.gain, other.steering.amplification) == ("empathy", 1.0, 0.5)
    assert other.sampling.min_p == 0.2
    assert plain.alignment is None
    assert plain.steering.model_fields_set == set()


async def test_choices_are_that_many_requests_with_seeds_of_their_own(scripted) -> None:
    engine = scripted("One.", "Two.")
    output = await ask(api_of(engine), num_choices=2, seed=2**63 - 1)
    assert {choice.message.text for choice in output.choices} == {"One.", "Two."}
    assert {request.sampling.seed for request in engine.requests} == {2**63 - 1, 0}


async def test_a_failed_choice_is_raised_as_it_is_and_ends_the_others(scripted) -> None:
    engine = scripted("Yes. " * 400, ValueError("broken"))
    with pytest.raises(Exception, match="broken"):
        await ask(api_of(engine), num_choices=2, max_tokens=4000)
    assert engine.stats().requests == 0


async def test_tools_are_called_and_their_results_come_back(scripted) -> None:
    engine = scripted(call_text("double", {"n": 4}), "Eight.")
    model = get_model("sda/scripted", engine=engine, memoize=False)
    messages, output = await model.generate_loop("What is 4 doubled?", tools=[double()])
    assert output.completion == "Eight."
    called, result = messages[0], messages[1]
    assert isinstance(called, ChatMessageAssistant)
    assert (called.tool_calls[0].function, called.tool_calls[0].arguments) == ("double", {"n": 4})
    assert isinstance(result, ChatMessageTool)
    assert result.text == "8"
    assert [message["role"] for message in engine.requests[1].messages] == ["user", "assistant", "tool"]


async def test_a_call_that_was_cut_off_is_no_call_but_an_error(scripted) -> None:
    output = await ask(
        api_of(scripted(call_text("double", {"n": 4}))), tools=[DOUBLE], tool_choice="any", max_tokens=16
    )
    assert output.stop_reason == "max_tokens"
    (call,) = output.message.tool_calls
    assert call.parse_error is not None


async def test_a_response_schema_is_enforced_by_grammar(engine) -> None:
    schema = ResponseSchema(name="answer", json_schema=json_schema(bool))
    output = await ask(api_of(engine), response_schema=schema, max_tokens=20)
    assert json.loads(output.completion) in (True, False)


async def test_an_answer_that_misses_its_schema_is_given_and_told_of(scripted, monkeypatch) -> None:
    async def misses(*_: object, **__: object) -> None:
        raise InvalidOutputError("it does not fit", text="[1, 1]")

    engine = scripted()
    monkeypatch.setattr(engine, "agenerate", misses)
    output = await ask(api_of(engine))
    assert output.completion == "[1, 1]"
    assert output.stop_reason == "stop"
    assert output.metadata == {"sda": {"misfit": "it does not fit"}}


async def test_log_probabilities_are_those_of_the_answers_tokens(engine) -> None:
    output = await ask(api_of(engine), logprobs=True, top_logprobs=2, temperature=0.0, max_tokens=3)
    places = output.choices[0].logprobs.content
    assert len(places) == 3
    for place in places:
        assert [top.logprob for top in place.top_logprobs] == sorted(t.logprob for t in place.top_logprobs)[::-1]
        assert place.logprob == place.top_logprobs[0].logprob  # greedy


async def test_the_token_limit_and_a_full_window_are_told_apart() -> None:
    with tiny_engine(context_window=64) as engine:
        api = api_of(engine)
        assert (await ask(api, max_tokens=2, seed=1)).stop_reason == "max_tokens"
        long = [ChatMessageUser(content="word " * 100)]
        output = await ask(api, long)
    assert output.stop_reason == "model_length"
    assert "context window of 64 tokens" in output.completion


async def test_greedy_requests_at_once_answer_as_alone(engine) -> None:
    api = api_of(engine, alignment="honesty", amplification=0.5, trace=False)
    chats = [[ChatMessageUser(content=f"Question {number}?")] for number in range(6)]
    config = {"temperature": 0.0, "max_tokens": 8}
    together = await asyncio.gather(*(ask(api, chat, **config) for chat in chats))
    alone = [await ask(api, chat, **config) for chat in chats]
    assert [one.completion for one in together] == [one.completion for one in alone]


async def test_errors_of_the_engine_come_through(scripted) -> None:
    judge = ScriptedEvaluator([EvaluationError("no verdict")])
    with pytest.raises(EvaluationError, match="no verdict"):
        await ask(api_of(scripted(), alignment="honesty", evaluator=judge))
    with pytest.raises(ConfigError, match="frequency_penalty"):
        await ask(api_of(scripted()), frequency_penalty=1.0)


async def test_tokens_are_counted_by_the_models_own_tokenizer(engine) -> None:
    api = api_of(engine)
    assert await api.tokenize("the fox") == engine.encode("the fox")
    assert await api.count_tokens("the fox") == len(engine.encode("the fox"))
    assert await api.count_tokens(HI) == engine.count_prompt_tokens([{"role": "user", "content": "Hi"}])


async def test_messages_that_are_no_prompt_are_counted_by_their_texts(engine, monkeypatch) -> None:
    def refuses(*_: object, **__: object) -> int:
        raise MessageError("no prompt")

    monkeypatch.setattr(engine, "count_prompt_tokens", refuses)
    assert await api_of(engine).count_tokens(HI) >= len(engine.encode("Hi"))


async def test_the_model_is_loaded_by_the_first_request_and_stays(loads, engine) -> None:
    api = SDAModelAPI("m", device="cpu", engine_settings={"max_rows": 8})
    assert loads == []
    await asyncio.gather(*(ask(api, max_tokens=1) for _ in range(2)))
    assert api.engine is engine
    await api.aclose()
    assert not engine.closed
    assert loads[0] == ("m", {"device": "cpu", "settings": EngineSettings(max_rows=8)})


def test_what_inspect_asks_of_a_provider(engine) -> None:
    api = api_of(engine)
    assert api.engine is engine
    assert api.max_tokens() == 512
    assert api.max_connections() == EngineSettings().max_rows // 2
    assert SDAModelAPI("m", engine_settings={"max_rows": 3}).max_connections() == 1
    assert api.connection_key() == "tiny-llama"
    assert api.force_reasoning_history() == "none"
    assert not api.should_retry(ValueError())


def test_another_event_loop_than_asyncios_is_refused(engine) -> None:
    with pytest.raises(ConfigError, match="need asyncio"):
        ask(api_of(engine)).send(None)  # as a loop that is none of asyncio's begins it


def test_the_provider_is_found_by_its_name(engine) -> None:
    model = get_model("sda/tiny-llama", engine=engine, memoize=False)
    assert isinstance(model.api, SDAModelAPI)
    assert isinstance(model.api.engine, SteeringEngine)
    assert str(model) == "sda/tiny-llama"
