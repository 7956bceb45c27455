"""The eight methods: what reaches the engine, and what comes back."""

import asyncio
import json
import threading

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, RequestTimeoutError
from sda_engine.evaluators import FixedScore
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator
from sda_integrations.llama_index import SDALLM
from tests.sda_integrations.llama_index.asking import METHODS, STREAMING, ask, text_of

QUESTION = {"role": "user", "content": "Who wrote Faust?"}
LONG = "Goethe wrote Faust. " * 5  # more tokens than could be decoded while the caller looks at the clock


@pytest.mark.parametrize("method", METHODS)
async def test_each_method_answers_with_text_usage_and_sda_figures(scripted, method):
    llm = SDALLM(engine=scripted, alignment="honesty", evaluator=FixedScore(80))
    expected = scripted.generate([QUESTION], "honesty", steering=Steering(evaluator=FixedScore(80)))
    last = (await ask(llm, method))[-1]
    assert text_of(last) == expected.text == "Goethe wrote Faust."
    assert json.loads(json.dumps(last.raw)) == {
        "model": "scripted",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": expected.usage.prompt_tokens,
            "completion_tokens": expected.usage.completion_tokens,
            "total_tokens": expected.usage.total_tokens,
            "cached_prompt_tokens": expected.usage.prompt_tokens - 1,  # all but the last have been computed above
        },
        "sda": expected.sda_metadata(),
    }
    assert last.raw["sda"]["alignment"] == "honesty"
    assert last.raw["sda"]["base_response_tokens"] == expected.usage.base_response_tokens
    assert last.additional_kwargs == last.raw["usage"]
    assert scripted.requests[-1].messages == [QUESTION]


@pytest.mark.parametrize("method", STREAMING)
async def test_streams_grow_by_their_deltas_and_end_with_raw(llm, method):
    responses = await ask(llm, method)
    assert len(responses) > 3
    so_far = ""
    for response in responses:
        so_far += response.delta
        assert text_of(response) == so_far
    assert so_far == "Goethe wrote Faust."
    assert all(response.delta for response in responses[:-1])
    assert [response.raw is None for response in responses] == [True] * (len(responses) - 1) + [False]


@pytest.mark.parametrize("method", METHODS)
async def test_all_methods_give_the_same_answer_with_a_real_engine(engine, method):
    llm = SDALLM(engine=engine, alignment="honesty", seed=3, max_tokens=12, logprobs=2)
    sampling = Sampling(seed=3, max_new_tokens=12, logprobs=2)
    engine.generate([QUESTION], "honesty", sampling=sampling)  # the prompt is stored, and all below compute the same
    expected = engine.generate([QUESTION], "honesty", sampling=sampling)
    last = (await ask(llm, method))[-1]
    assert text_of(last) == expected.text
    assert last.raw["sda"] == expected.sda_metadata()
    assert len(last.logprobs) == len(expected.token_ids)
    for place, given in zip(expected.logprobs, last.logprobs, strict=True):
        assert (given[0].token, given[0].logprob) == (place.chosen.text, place.chosen.logprob)
        assert given[0].bytes == ([] if "\N{REPLACEMENT CHARACTER}" in given[0].token else [*given[0].token.encode()])
        others = [token.logprob for token in place.top if token.token_id != place.chosen.token_id]
        assert [token.logprob for token in given[1:]] == others


async def test_log_probabilities_are_absent_unless_asked_for(engine):
    llm = SDALLM(engine=engine, max_tokens=3)
    assert (await ask(llm, "complete"))[-1].logprobs is None
    assert (await ask(llm, "stream_chat"))[-1].logprobs is None


@pytest.mark.parametrize("rated", [{"evaluator": FixedScore(80)}, {"amplification": 0.25}])
@pytest.mark.parametrize("method", METHODS)
async def test_fields_reach_the_engine(scripted, method, rated):
    llm = SDALLM(
        engine=scripted,
        alignment="empathy",
        gain=3.0,
        **rated,
        steering=Steering(gain=1.0, min_temperature=0.1),
        temperature=0.2,
        top_p=0.5,
        top_k=7,
        min_p=0.05,
        max_tokens=11,
        stop=["\n"],
        seed=5,
        logprobs=1,
    )
    await ask(llm, method)
    assert scripted.requests[-1].alignment.name == "empathy"
    assert scripted.requests[-1].steering == Steering(gain=3.0, min_temperature=0.1, **rated)
    assert scripted.requests[-1].sampling == Sampling(
        temperature=0.2, top_p=0.5, top_k=7, min_p=0.05, max_new_tokens=11, stop="\n", seed=5, logprobs=1
    )


@pytest.mark.parametrize("rated", [{"evaluator": ScriptedEvaluator([70])}, {"amplification": 0.5}])
@pytest.mark.parametrize("method", METHODS)
async def test_call_keywords_override_fields_for_that_call_only(scripted, method, rated):
    llm = SDALLM(engine=scripted, alignment="empathy", gain=3.0, temperature=0.2, max_tokens=11)
    call = {
        "alignment": "honesty",
        "gain": 1.5,
        **rated,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "max_tokens": 4,
        "stop": "END",
        "seed": 1,
        "logprobs": 0,
    }
    await ask(llm, method, **call)
    assert scripted.requests[-1].alignment.name == "honesty"
    assert scripted.requests[-1].steering == Steering(gain=1.5, **rated)
    assert scripted.requests[-1].sampling == Sampling(
        temperature=0, top_p=0.9, top_k=3, min_p=0.1, max_new_tokens=4, stop="END", seed=1, logprobs=0
    )
    await ask(llm, method)
    assert scripted.requests[-1].alignment.name == "empathy"
    assert scripted.requests[-1].steering == Steering(gain=3.0)
    assert scripted.requests[-1].sampling == Sampling(temperature=0.2, max_new_tokens=11)


def test_alignment_none_in_a_call_asks_for_a_plain_answer(scripted):
    SDALLM(engine=scripted, alignment="empathy").complete("Hi", alignment=None)
    assert scripted.requests[-1].alignment is None


def test_none_in_a_call_keeps_any_other_field(scripted):
    SDALLM(engine=scripted, temperature=0.2).complete("Hi", temperature=None)
    assert scripted.requests[-1].sampling.temperature == 0.2


@pytest.mark.parametrize("method", METHODS)
async def test_a_timeout_holds_as_field_or_keyword_and_the_keyword_comes_first(scripted_llm, method):
    hasty = scripted_llm(LONG, timeout=1e-9)
    for keywords in ({}, {"timeout": None}):
        with pytest.raises(RequestTimeoutError):
            await ask(hasty, method, **keywords)
    assert text_of((await ask(hasty, method, timeout=600))[-1]) == LONG
    patient = scripted_llm(LONG, timeout=600)
    with pytest.raises(RequestTimeoutError):
        await ask(patient, method, timeout=1e-9)
    assert text_of((await ask(patient, method))[-1]) == LONG


def test_a_steering_object_in_a_call_replaces_the_fields_too(scripted):
    llm = SDALLM(engine=scripted, alignment="honesty", gain=3.0)
    llm.complete("Hi", steering=Steering(plausibility=0.1), amplification=0.5)
    assert scripted.requests[-1].steering == Steering(plausibility=0.1, amplification=0.5)


def test_an_alignment_object_reaches_the_engine_as_it_is(scripted):
    alignment = Alignment(instruction="Speak plainly.", avoid="Speak in jargon.")
    SDALLM(engine=scripted).complete("Hi", alignment=alignment)
    assert scripted.requests[-1].alignment is alignment


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("temperaturee", 1.0, "Did you mean 'temperature'"),
        ("temperature", -1, "at least 0"),
        ("tools", "add", "must be a list"),
        ("tools", [5], "A tool cannot be an object of type int"),
        ("tool_choice", "any", "needs tools"),
        ("tool_choice", 5, "tool_choice cannot be 5"),
        ("response_format", 5, "must be a pydantic model, or a JSON schema"),
        ("constraint", "a+", "constraint cannot be 'a"),
        ("parallel_tool_calls", "yes", "parallel_tool_calls cannot be 'yes'"),
        ("timeout", 0, "above 0"),
        ("steering", {"gain": 2}, "must be a Steering"),
        ("alignment", 5, "alignment cannot be 5"),
    ],
)
async def test_wrong_call_keywords_are_refused_before_the_engine_is_asked(llm, scripted, method, keyword, value, said):
    with pytest.raises(ConfigError, match=said):
        await ask(llm, method, **{keyword: value})
    assert not scripted.requests


def test_http_headers_that_llama_index_sends_are_accepted(llm):
    # DocumentContextExtractor sends them with every call
    assert llm.complete("Hi", extra_headers={"anthropic-beta": "prompt-caching"}).text


@pytest.mark.parametrize("method", METHODS)
async def test_the_system_prompt_comes_once(scripted, method):
    await ask(SDALLM(engine=scripted, system_prompt="Be brief."), method)
    assert scripted.requests[-1].messages == [{"role": "system", "content": "Be brief."}, QUESTION]


async def test_the_system_prompt_comes_once_where_llama_index_adds_it_as_well(scripted):
    llm = SDALLM(engine=scripted, system_prompt="Be brief.")
    prompt = PromptTemplate("Who wrote {work}?")
    llm.predict(prompt, work="Faust")
    list(llm.stream(prompt, work="Faust"))
    await llm.apredict(prompt, work="Faust")
    async for _ in await llm.astream(prompt, work="Faust"):
        pass
    assert len(scripted.requests) == 4
    for call in scripted.requests:
        assert call.messages == [{"role": "system", "content": "Be brief."}, QUESTION]


def test_a_system_message_follows_the_system_prompt_in_one_turn(scripted):
    messages = [ChatMessage(role="system", content="Answer in verse."), ChatMessage(content="Hi")]
    SDALLM(engine=scripted, system_prompt="Be brief.").chat(messages)
    assert scripted.requests[-1].messages[0] == {"role": "system", "content": "Be brief.\n\nAnswer in verse."}
    assert [message.content for message in messages] == ["Answer in verse.", "Hi"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Be brief.\n\nHi", [{"role": "user", "content": "Be brief.\n\nHi"}]),
        ("Hi", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
    ],
)
def test_a_formatted_prompt_gets_the_system_prompt_only_where_it_lacks_it(scripted, prompt, expected):
    SDALLM(engine=scripted, system_prompt="Be brief.").complete(prompt, formatted=True)
    assert scripted.requests[-1].messages == expected


def test_completion_to_prompt_has_its_turn_unless_the_prompt_is_formatted(scripted):
    llm = SDALLM(engine=scripted, completion_to_prompt=lambda prompt: f"Q: {prompt} A:")
    llm.complete("Hi")
    assert scripted.requests[-1].messages == [{"role": "user", "content": "Q: Hi A:"}]
    llm.complete("Hi", formatted=True)
    assert scripted.requests[-1].messages == [{"role": "user", "content": "Hi"}]


def test_the_query_wrapper_prompt_wraps_completions(scripted):
    wrapper = PromptTemplate("Question: {query_str}")
    SDALLM(engine=scripted, query_wrapper_prompt=wrapper).complete("Hi")
    assert scripted.requests[-1].messages == [{"role": "user", "content": "Question: Hi"}]


def test_messages_to_prompt_renders_the_chat_with_the_system_prompt_into_one_user_turn(scripted):
    def render(messages):
        return "|".join(f"{message.role.value}={message.content}" for message in messages)

    SDALLM(engine=scripted, system_prompt="Be brief.", messages_to_prompt=render).chat([ChatMessage(content="Hi")])
    assert scripted.requests[-1].messages == [{"role": "user", "content": "system=Be brief.|user=Hi"}]


@pytest.mark.parametrize("method", METHODS)
async def test_errors_of_the_engine_pass_unchanged(method):
    error = RequestTimeoutError("too slow")
    with pytest.raises(RequestTimeoutError) as caught:
        await ask(SDALLM(engine=ScriptedEngine([error])), method)
    assert caught.value is error


@pytest.mark.parametrize("method", STREAMING)
async def test_errors_in_the_middle_of_a_stream_pass_unchanged(method):
    error = RequestTimeoutError("too slow")
    with pytest.raises(RequestTimeoutError) as caught:
        await ask(SDALLM(engine=ScriptedEngine([("Goethe", error)])), method)
    assert caught.value is error


@pytest.mark.parametrize("method", ["acomplete", "astream_chat"])
async def test_async_methods_load_the_model_off_the_event_loop(monkeypatch, scripted, method):
    loaders = []

    def load(*args, **kwargs):
        loaders.append(threading.current_thread())
        return scripted

    monkeypatch.setattr(SteeringEngine, "load", load)
    await ask(SDALLM(), method)
    assert threading.current_thread() not in loaders
    assert len(loaders) == 1


async def test_async_calls_run_side_by_side(engine):
    llm = SDALLM(engine=engine, alignment="honesty", temperature=0, max_tokens=8)
    together = await asyncio.gather(*(llm.acomplete(text) for text in ("one", "two", "three")))
    assert [response.text for response in together] == [llm.complete(text).text for text in ("one", "two", "three")]
