"""Steered text over text and pictures, token for token as in separate forward passes of transformers' own inputs."""

import asyncio

import pytest

from sda_engine import Alignment, Sampling, Steering
from sda_engine.engine_settings import EngineSettings
from tests.sda_engine.vision.vision_models import (
    FAMILIES,
    engine_of,
    loop_with_pictures,
    ours,
    picture,
    processor_inputs,
)

TOKENS = 5
GREEDY = Sampling(temperature=0, max_new_tokens=TOKENS)
HALF = Steering(policy="paper", amplification=0.5)  # strength 1
ALIGNMENT = Alignment(instruction="Be brief.", avoid="Be long.")


def chat(number, more=""):
    """A chat with a picture in an earlier turn and one in the last, whose texts differ by its number."""
    question = f"And what, asked {'again ' * number}, "
    return [
        {"role": "user", "content": [image(1), text("What is it?")]},
        {"role": "assistant", "content": [text("A fox.")]},
        {"role": "user", "content": [text(question), image(2 + number % 2, (64, 33)), text(f"is that?{more}")]},
    ]


def image(seed, size=(40, 28)):
    return {"type": "image", "image": picture(seed, size)}


def text(words):
    return {"type": "text", "text": words}


def expected(engine, number):
    """What the loop gives, by the processor's own inputs."""
    texts = {"base": "", "instructed": "\nBe brief.", "avoided": "\nBe long."}
    rows = {row: processor_inputs(engine.processor, chat(number, more)) for row, more in texts.items()}
    return loop_with_pictures(engine.model, rows, (1.0, 1.0), TOKENS, {2})


@pytest.fixture(params=FAMILIES, scope="module")
def engine(request):
    """Prompts are read in pieces that cut through pictures, where these may be cut."""
    with engine_of(request.param, settings=EngineSettings(prefill_chunk=24)) as engine:
        yield engine


def test_a_prompt_with_pictures_has_the_tokens_that_the_processor_gives_it(engine):
    inputs = processor_inputs(engine.processor, chat(0))
    assert engine.count_prompt_tokens(ours(chat(0))) == inputs["input_ids"].shape[1]
    ids = engine._tokenizer.render(ours(chat(0)))
    image_token = engine.model.config.image_token_id
    assert [image_token if token_id < 0 else token_id for token_id in ids] == inputs["input_ids"][0].tolist()


def test_requests_with_pictures_run_together_as_each_would_alone(engine):
    async def ask():
        return await asyncio.gather(
            *(engine.agenerate(ours(chat(n)), ALIGNMENT, steering=HALF, sampling=GREEDY) for n in range(8))
        )

    answers = [list(done.token_ids) for done in asyncio.run(ask())]
    assert engine.stats().pictures_read == 3  # of eight chats with two each
    for number in (3, 6):
        assert answers[number] == expected(engine, number)
    again = engine.generate(ours(chat(3)), ALIGNMENT, steering=HALF, sampling=GREEDY)
    assert again.usage.cached_prompt_tokens > 0.9 * again.usage.prompt_tokens
    assert list(again.token_ids) == answers[3]
    assert engine.stats().pictures_read == 3


def test_a_chat_of_text_alone_is_written_whatever_the_form_of_contents_that_its_template_takes(engine):
    messages = [{"role": "user", "content": [text("What is it?")]}]
    inputs = processor_inputs(engine.processor, messages)
    assert engine._tokenizer.render([{"role": "user", "content": "What is it?"}]) == inputs["input_ids"][0].tolist()
