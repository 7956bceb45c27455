"""/v1/completions: prompts as the user's turn of a chat, in OpenAI's older form."""

import openai
import pytest

from sda_engine import Sampling
from tests.sda_integrations.server.answers import GREEDY
from tests.servers import serving
from tests.thinking import scripted_thinker

PROMPT = "What is in the library?"


@pytest.fixture(scope="module")
def client(engine):
    with (
        serving(engine, alignment="honesty") as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made,
    ):
        yield made


def ask(client, prompt=PROMPT, **fields):
    return client.completions.create(**{"model": "tiny-llama", "prompt": prompt, **GREEDY, **fields})


def in_process(engine, prompt=PROMPT, **sampling):
    settings = Sampling(**{"temperature": 0, "max_new_tokens": 8, **sampling})
    return engine.generate([{"role": "user", "content": prompt}], "honesty", sampling=settings)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_answered_as_the_users_turn(client, engine, stream):
    reply, wanted = ask(client, stream=stream), in_process(engine)
    replies = list(reply) if stream else [reply]
    assert "".join(choice.text for one in replies for choice in one.choices) == wanted.text
    assert replies[-1].choices[0].finish_reason == wanted.finish_reason
    assert replies[-1].model_extra["sda"]["strength"] == wanted.trace.strength
    assert {one.object for one in replies} == {"text_completion"}
    assert replies[0].id.startswith("cmpl-")


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_answers_are_numbered_prompt_by_prompt(client, engine, stream):
    prompts = [PROMPT, "And who reads there?"]
    asked = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    reply = ask(client, prompts, n=2, seed=3, temperature=1.0, **asked)
    wanted = [in_process(engine, prompt, seed=seed, temperature=1.0) for prompt in prompts for seed in (3, 4)]
    replies = list(reply) if stream else [reply]
    for number, one in enumerate(wanted):
        said = [choice.text for part in replies for choice in part.choices if choice.index == number]
        assert "".join(said) == one.text
    usage = replies[-1].usage
    assert usage.prompt_tokens == wanted[0].usage.prompt_tokens + wanted[2].usage.prompt_tokens
    assert usage.completion_tokens == sum(one.usage.completion_tokens for one in wanted)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_in_the_older_form(client, engine, stream):
    reply, wanted = ask(client, logprobs=2, stream=stream), in_process(engine, logprobs=2).logprobs
    replies = list(reply) if stream else [reply]
    told = [one.choices[0].logprobs for one in replies if one.choices[0].logprobs]
    tokens = [token for part in told for token in part.tokens]
    assert tokens == [place.chosen.text for place in wanted]
    logprobs = [value for part in told for value in part.token_logprobs]
    assert logprobs == pytest.approx([place.chosen.logprob for place in wanted], abs=1e-4)
    offsets = [offset for part in told for offset in part.text_offset]
    assert offsets == [len("".join(tokens[:place])) for place in range(len(tokens))]
    for top, place in zip((top for part in told for top in part.top_logprobs), wanted, strict=True):
        assert set(top) == {token.text for token in (*place.top, place.chosen)}
        assert top[place.top[0].text] == pytest.approx(place.top[0].logprob, abs=1e-4)


def test_a_thought_is_no_part_of_the_text():
    with (
        scripted_thinker("Qwen 3", "<think>\nhm\n</think>\n\nBooks.") as engine,
        serving(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        (choice,) = ask(client, model="scripted", max_tokens=100).choices
    assert (choice.text, choice.model_extra["reasoning_content"]) == ("Books.", "\nhm\n")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "."}, "suffix"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"prompt": ["x", "y"], "n": 9}, "n"),
        ({"extra_body": {"messages": []}}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, **fields)
    assert raised.value.param.startswith(param)
